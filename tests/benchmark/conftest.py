"""A run that the benchmarks can measure."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import CfgNode

from dre_ssod.engine.setup import complete
from tests.tiny_dataset import loggers_kept, tiny_run, write_tiny_dataset


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> CfgNode:
    root: Path = tmp_path_factory.mktemp("benchmark")
    cfg = tiny_run(write_tiny_dataset(root), root / "run")
    with loggers_kept():
        complete(cfg)
    return cfg
