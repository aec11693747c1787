"""That the benchmarks measure what they say; how fast it is, is not a test's business."""

from __future__ import annotations

import importlib
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.config import CfgNode

from dre_ssod.benchmark import loader
from dre_ssod.benchmark.ema import benchmark_ema
from dre_ssod.benchmark.formats import benchmark_formats
from dre_ssod.benchmark.loader import (
    benchmark_growth,
    benchmark_loader,
    benchmark_shard_growth,
    benchmark_sources,
)
from dre_ssod.benchmark.report import Goal, Report
from dre_ssod.benchmark.step import StepParts, _over_mean_teacher, benchmark_step
from dre_ssod.data.conversion.packing import pack
from dre_ssod.data.sources.catalog import load_unlabeled
from dre_ssod.errors import ConfigError
from dre_ssod.methods import METHODS, build_method
from dre_ssod.modeling.student_batch import PairBatch
from tests.methods.every import config_of
from tests.tiny_dataset import TinyDataset, loggers_kept


def names(report: Report) -> list[str]:
    return [row.name for row in report.rows]


def test_ema(cfg: CfgNode) -> None:
    report = benchmark_ema(cfg, rounds=2)
    assert report.settings["rounds"] == 2
    assert all(row.value > 0 for row in report.rows)
    assert [goal.bound for goal in report.goals] == [1.3]


@pytest.mark.parametrize("name", ["ema", "step", "formats", "inference", "loader", "evaluation"])
def test_the_device_of_the_config_is_reported(
    name: str, cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"dre_ssod.benchmark.{name}")
    more = {"inference": (1, 1), "loader": (1,), "evaluation": (2,)}.get(name, ())
    monkeypatch.setattr(module, "machine", lambda device: {"device": str(device)})
    monkeypatch.setattr("dre_ssod.benchmark.step._over_mean_teacher", lambda *_: Goal("", 1.0, 1.0))
    monkeypatch.setattr("dre_ssod.benchmark.step._add_waits", lambda *_: None)
    report = getattr(module, f"benchmark_{name}")(cfg, 1, *more)
    assert report.machine["device"] == "cpu"


def test_the_loader_measures_each_image_once_a_view(cfg: CfgNode) -> None:
    report = benchmark_loader(cfg, rounds=2, images=5)
    assert report.settings["images"] == 5
    assert report.goals[0].value == report.rows[0].value > 0


def test_the_limit_resizes_as_the_views_are_drawn(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SSOD.STRONG_VIEW.LONG_SIDES = (33, 33)
    records = load_unlabeled(cfg.DATASETS.TRAIN)[:2]
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(cv2, "resize", lambda image, size: sizes.append(size))
    for name, views in (("MeanTeacher", 2), ("UnbiasedTeacher", 1)):
        cfg.SSOD.METHOD = name
        sizes.clear()
        loader._decode_and_resize(records, build_method(cfg).mappers(cfg)[1])
        assert len(sizes) == views * len(records)
        assert [max(size) == 33 for size in sizes] == [False, True][:views] * len(records)


def test_growth_counts_the_memory_of_workers() -> None:
    report = benchmark_growth(entries=2000, workers=1)
    values = {row.name: row.value for row in report.rows}
    assert values["memory that a worker has for itself"] > 0
    assert {goal.unit for goal in report.goals} == {"bytes", "s"}


def test_growth_of_shards_holds_no_list(tmp_path: Path) -> None:
    """Fifty thousand names take megabytes; their index is not held."""
    report = benchmark_shard_growth(50_000, workers=1, folder=tmp_path)
    assert report.settings["entries"] == 50_000
    values = {row.name: row.value for row in report.rows}
    assert values["shards in a checkpoint"] == 5
    assert values["memory that a worker has for itself"] > 0
    assert [goal.unit for goal in report.goals] == ["MiB", "s"]


def test_sources_are_read_to_the_end(cfg: CfgNode, tmp_path: Path) -> None:
    loose = cfg.DATASETS.UNLABELED[0]
    packed = pack(loose, tmp_path / "packed", "a", per_shard=3, labels=False).uri
    report = benchmark_sources([loose, packed], rounds=1, images=3)
    expected = [f"{name}: {what}" for what in ("opened", "first pass") for name in (loose, packed)]
    assert sorted(names(report)) == sorted([*expected, f"{loose}: again", f"{packed}: again"])
    assert all(row.value > 0 for row in report.rows)


def test_the_parts_of_a_step_are_those_of_the_run(cfg: CfgNode) -> None:
    parts = StepParts(cfg)
    assert len(parts.batch.labeled) == len(parts.batch.unlabeled) == 2
    labeled = sum(len(image["instances"]) for image in parts.batch.labeled)
    pseudo = sum(len(image["instances"]) for image in parts._all_labeled.labeled[2:])
    # As many pseudo-boxes as labeled ones, but for those that leave the strong view.
    assert 0 < pseudo <= labeled + 2
    before = [p.clone() for p in parts.step.teacher.parameters()]
    parts.student()
    assert any(p.grad is not None and bool(p.grad.any()) for p in parts.step.model.parameters())
    parts.teacher()
    assert all(map(torch.equal, before, parts.step.teacher.parameters()))
    weights = [p.clone() for p in parts.step.model.parameters()]
    parts.whole()
    assert all(map(torch.equal, weights, parts.step.model.parameters()))
    # All that kept the step from changing them was the rate.
    for group in parts.step.optimizer.param_groups:
        assert group["lr"] == 0.0
        group["lr"] = 0.1
    parts.whole()
    assert not all(map(torch.equal, weights, parts.step.model.parameters()))
    assert not all(map(torch.equal, before, parts.step.teacher.parameters()))


def test_the_parts_of_a_step_of_two_detectors_are_those_of_both(cfg: CfgNode) -> None:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SSOD.METHOD = "InstantTeachingStar"
    cfg.MODEL.META_ARCHITECTURE = "PairedRCNN"
    parts = StepParts(cfg)
    both = parts._all_labeled
    assert isinstance(both, PairBatch)
    for batch in (both.first, both.second):
        assert len(batch.labeled) == 4
        assert not batch.strong
    assert not torch.equal(both.first.labeled[2]["image"], both.second.labeled[2]["image"])
    parts.student()
    # What it is held against is a single detector.
    assert _over_mean_teacher(cfg, parts, rounds=1).value > 0.0
    for detector in parts.step.model.detectors:
        assert any(bool(p.grad.any()) for p in detector.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [name for name, method in METHODS if method.uses_unlabeled])
def test_every_method_has_a_row_of_its_step(
    name: str, data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Further models, which the row of the first test has.
    monkeypatch.setattr("dre_ssod.benchmark.step._over_mean_teacher", lambda *_: Goal("", 1.0, 1.0))
    monkeypatch.setattr("dre_ssod.benchmark.step._add_waits", lambda *_: None)
    with loggers_kept():
        report = benchmark_step(config_of(name, data, tmp_path), rounds=1)
    times = {row.name: row.value for row in report.rows if row.unit == "ms"}
    assert times.keys() == {"step", "student", "teacher", "optimizer"}
    assert all(value > 0.0 for value in times.values())
    values = {row.name: row.value for row in report.rows}
    assert values["peak of the step, without the teacher's weights"] > 0.0


def test_a_supervised_baseline_has_no_such_step(cfg: CfgNode) -> None:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SSOD.ENABLED = False
    with pytest.raises(ConfigError, match=r"SSOD\.ENABLED is False"):
        StepParts(cfg)


def test_step(cfg: CfgNode) -> None:
    report = benchmark_step(cfg, rounds=1)
    assert {"step", "student", "teacher", "optimizer"} <= set(names(report))
    assert len(report.goals) == 4
    assert "step over that of MeanTeacher" in [goal.name for goal in report.goals]
    values = {row.name: row.value for row in report.rows}
    assert values["peak of the whole process, so far"] > values["teacher's weights"]
    # All losses and figures, and which pseudo-labels are left; whatever the number of images.
    assert values["waits for a GPU: dre_ssod"] == 1
    assert values["copies to the host that are awaited by an event"] == 1
    assert not Path(cfg.OUTPUT_DIR).exists()


def test_a_number_format_that_is_slower_than_float32_is_seen(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    formats = []
    run_step = StepParts.whole

    def whole(parts: StepParts) -> None:
        formats.append(parts.step.settings.autocast_dtype)
        run_step(parts)

    monkeypatch.setattr(StepParts, "whole", whole)
    report = benchmark_step(cfg, rounds=1)
    assert set(formats) == {None, torch.bfloat16}
    assert formats[-1] is torch.bfloat16
    times = {row.name: row.value for row in report.rows if row.unit == "ms"}
    goal = next(goal for goal in report.goals if goal.name == "step over the same in float32")
    assert goal.value == pytest.approx(times["step"] / times["step in float32"])


def test_formats_are_all_tried_and_the_configs_choice_is_judged(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    cfg.MODEL.CHANNELS_LAST = False
    cfg.SEED = -1
    tried, contents = [], []

    def whole(parts: StepParts) -> None:
        tried.append((parts.step.settings.autocast_dtype, parts.step.model.memory_format))
        weights = [p.sum().item() for p in parts.step.model.parameters()]
        images = [float(sample.strong.image.sum()) for sample in parts.batch.unlabeled]
        contents.append((weights, images))
        run_step(parts)

    run_step = StepParts.whole
    monkeypatch.setattr(StepParts, "whole", whole)
    report = benchmark_formats(cfg, rounds=1)
    assert len(set(tried)) == 4
    for weights, images in contents:
        assert weights == pytest.approx(contents[0][0])
        assert images == contents[0][1]
    assert {dtype for dtype, _ in tried} == {None, torch.bfloat16}
    times = {row.name: row.value for row in report.rows if row.unit == "ms"}
    assert report.settings["the config's choice"] == "autocast"
    assert report.settings["the quickest"] == min(times, key=lambda name: times[name])
    expected = times["autocast"] / min(times.values())
    assert report.goals[0].value == pytest.approx(expected)
