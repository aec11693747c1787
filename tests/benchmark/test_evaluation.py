"""That the benchmark evaluates what it says, and sees how far the two libraries are apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dre_ssod.benchmark.evaluation import benchmark_evaluation
from dre_ssod.benchmark.report import Report
from dre_ssod.config.keys import get_cfg
from dre_ssod.errors import ConfigError
from dre_ssod.evaluation.coco import evaluate_boxes
from tests.tiny_dataset import tiny_run, write_tiny_dataset


def values(report: Report) -> dict[str, float]:
    return {row.name: row.value for row in report.rows}


def goals(report: Report) -> dict[str, tuple[float, bool]]:
    return {goal.name: (goal.value, goal.met) for goal in report.goals}


def test_evaluation_of_a_generated_set() -> None:
    report = benchmark_evaluation(get_cfg(), rounds=1, images=40)
    assert report.settings["objects of"] == "a generated set"
    assert report.settings["images"] == 40
    assert values(report)["pycocotools"] > 0
    assert 0.05 < values(report)["AP"] < 0.9
    assert goals(report)["largest difference"][1]
    assert {"pycocotools", "faster-coco-eval"} <= report.machine.keys()


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*arguments: Any) -> Any:
        evaluation = evaluate_boxes(*arguments)
        evaluation.eval["recall"] = evaluation.eval["recall"] + 0.25
        return evaluation

    monkeypatch.setattr("dre_ssod.benchmark.evaluation.evaluate_boxes", shifted)
    report = benchmark_evaluation(get_cfg(), rounds=1, images=5)
    assert values(report)["largest difference of recalls"] == pytest.approx(0.25)
    assert goals(report)["largest difference"] == (pytest.approx(0.25), False)


def test_evaluation_of_a_config(tmp_path: Path) -> None:
    cfg = tiny_run(write_tiny_dataset(tmp_path), tmp_path / "run")
    report = benchmark_evaluation(cfg, rounds=1, images=5)
    assert report.settings["objects of"] == cfg.DATASETS.TEST[0]
    assert (report.settings["images"], report.settings["objects"]) == (5, 15)
    assert goals(report)["largest difference"][1]


def test_a_set_without_objects_is_refused(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path)
    path = tmp_path / "train.json"
    path.write_text(path.read_text().replace('"image_id": 1,', '"image_id": 2,'))
    with pytest.raises(ConfigError, match=r"the first 1 images of .* have no objects"):
        benchmark_evaluation(tiny_run(data, tmp_path), rounds=1, images=1)
