"""Settings of the whole test run."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import hypothesis
import pytest
import torch

from dre_ssod.data.sample.dataset import ensure_sample_set
from dre_ssod.locks import taking_turns
from tests.factories import tiny_cfg, tiny_model

MOST_WORKERS = 12

# The models of the tests are too small to share among cores: on a busy machine, threads that wait
# for each other make them many times slower. Sums also have one order.
torch.set_num_threads(1)
cv2.setNumThreads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of programs that tests start

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes of ``-n auto``: none for single files and tests, which they would hold up."""
    if config.option.keyword or any(".py" in argument for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0))
    # Tests of programs wait more than they compute.
    return min(cores + cores // 2, MOST_WORKERS)


@pytest.fixture(autouse=True, scope="session")
def _first_model_built() -> None:
    """The first model of a kind in a process draws further random numbers; have it done."""
    tiny_model(tiny_cfg())


@pytest.fixture(scope="session")
def datasets_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For DETECTRON2_DATASETS: the built-in sample set, drawn once for all processes; read only."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with taking_turns(shared / "sample_set.lock"):
        ensure_sample_set(shared / "dre_ssod_sample")
    return shared
