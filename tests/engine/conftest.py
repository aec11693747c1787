"""Settings that all tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.factories import tiny_cfg, tiny_model


@pytest.fixture(autouse=True, scope="session")
def _settled() -> Iterator[None]:
    """One thread: faster for tensors this small, and sums have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # The first model of a kind in a process draws further random numbers; have it done.
    tiny_model(tiny_cfg())
    yield
    torch.set_num_threads(threads)
