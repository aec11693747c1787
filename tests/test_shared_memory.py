"""Loading processes are as many as shared memory has room for."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dre_ssod import workers
from dre_ssod.data.sources.catalog import ensure_registered
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.deployment.labeling.bulk_labeling import label_missing
from dre_ssod.deployment.labeling.labeling_job import LabelingJob, prepare
from dre_ssod.engine.training_data import mean_image_bytes
from dre_ssod.evaluation.evaluators import build_test_loader
from dre_ssod.workers import fitting
from tests.factories import tiny_cfg, tiny_model
from tests.tiny_dataset import tiny_run, write_tiny_dataset

MEBI = 2.0**20


@pytest.fixture
def shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """64 MiB, as a container has."""
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=2**14, f_frsize=2**12))
    return monkeypatch


# 1.25 times the size, for two batches of each process and two more.
@pytest.mark.parametrize(
    ("asked", "batch", "sharers", "expected"),
    [
        (0, 1e9, 1, 0),
        (4, 64 / 1.25 / 10, 1, 4),
        (4, 64 / 1.25 / 9, 1, 3),
        (4, 64 / 1.25 / 9, 2, 1),
        (4, 20.0, 1, 0),
        (4, 1e4, 1, 0),
    ],
)
@pytest.mark.usefixtures("shared_memory")
def test_no_more_processes_than_fit(
    asked: int, batch: float, sharers: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dre_ssod"):
        assert fitting(asked, batch * MEBI * (1 - 1e-9), sharers) == expected
    assert len(caplog.records) == (expected < asked)
    if expected < asked:
        assert f"{asked} loading processes need" in caplog.text
        assert f"using {expected}" in caplog.text
        assert "DATALOADER.NUM_WORKERS" in caplog.text


def test_a_system_without_it_gets_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "none")
    assert fitting(8, 1e12) == 8


def test_sizes_of_training_images() -> None:
    cfg = tiny_cfg(**{"INPUT.MIN_SIZE_TRAIN": (300, 600), "INPUT.MAX_SIZE_TRAIN": 10_000})
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    weak = ViewRecipe.weak
    assert mean_image_bytes(weak(cfg)) == pytest.approx(3 * (300 * 400 + 600 * 800) / 2)
    # The integral over all sizes between them.
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    assert mean_image_bytes(weak(cfg)) == pytest.approx(4 * (600**3 - 300**3) / 3 / 300, rel=1e-3)
    # The long side has a limit.
    cfg.INPUT.MAX_SIZE_TRAIN = 400
    assert mean_image_bytes(weak(cfg)) == pytest.approx(3 * 300 * 400)
    # Long sides have none.
    cfg.SSOD.STRONG_VIEW.LONG_SIDES = (400, 800)
    strong = 3 * 0.75 * (800**3 - 400**3) / 3 / 400
    assert mean_image_bytes(ViewRecipe.strong(cfg)) == pytest.approx(strong, rel=1e-3)


@pytest.mark.usefixtures("shared_memory")
def test_evaluations_and_labeling_take_no_more_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    # 64 MiB hold six of its pictures, and two processes may have six batches of one.
    size = {"INPUT.MIN_SIZE_TEST": 1600, "INPUT.MAX_SIZE_TEST": 2400}
    cfg = tiny_run(data, tmp_path / "run", **size, **{"DATALOADER.NUM_WORKERS": 2})
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    ensure_registered(data.labeled)
    assert build_test_loader(cfg, data.labeled).num_workers == 1
    cfg.INPUT.MIN_SIZE_TEST = 1000
    assert build_test_loader(cfg, data.labeled).num_workers == 2
    cfg.TEST.IMS_PER_BATCH = 8
    assert build_test_loader(cfg, data.labeled).num_workers == 0

    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    cfg.INPUT.MIN_SIZE_TEST = 48
    torch.save({"model": tiny_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    categories = [{"id": i, "name": f"class{i}"} for i in range(3)]
    more = str(data.root / "more")
    for batch, few in ((1, False), (1000, True)):
        job = LabelingJob(tmp_path / f"job{batch}", more, categories, 0.4, 0.3, batch, 2)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dre_ssod"):
            prepare(job, cfg)
            assert sum(label_missing(job, cfg)) == 4
        assert ("2 loading processes need" in caplog.text) == few
