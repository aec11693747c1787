"""Settings of the whole test run."""

from __future__ import annotations

import pytest
import torch

from tests.factories import tiny_cfg, tiny_model

# The models of the tests are too small to share among cores: on a busy machine, threads that wait
# for each other make them many times slower. Sums also have one order.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _first_model_built() -> None:
    """The first model of a kind in a process draws further random numbers; have it done."""
    tiny_model(tiny_cfg())
