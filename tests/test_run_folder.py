"""A run folder explains itself, through training, resumption and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from detectron2.engine import default_argument_parser

import train_net
from tests.tiny_dataset import loggers_kept, tiny_run, write_tiny_dataset


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def start(*words: object) -> Any:
    with loggers_kept():
        return train_net.main(default_argument_parser().parse_args(list(map(str, words))))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained, evaluated in its own folder, and made longer."""
    root = tmp_path_factory.mktemp("root")
    folder = root / "run"
    overrides = {"SOLVER.MAX_ITER": 1, "SOLVER.STEPS": (), "SEED": -1}
    cfg = tiny_run(write_tiny_dataset(root / "data"), folder, **overrides)
    file = root / "my.yaml"
    file.write_text(cfg.dump(), encoding="utf-8")
    common = ("--config-file", file)
    start(*common)
    weights = ("MODEL.WEIGHTS", folder / "model_final.pth")
    start(*common, "--eval-only", *weights, "SSOD.EVAL_MODEL", "teacher")
    start(*common, "--resume", "SOLVER.MAX_ITER", 2)
    return folder


def test_every_start_has_an_entry(run: Path) -> None:
    trained, evaluated, resumed = read(run / "run.json")["runs"]
    assert [e["kind"] for e in (trained, evaluated, resumed)] == [
        *("training", "evaluation", "training")
    ]
    assert (trained["first_iteration"], resumed["first_iteration"]) == (0, 1)
    assert trained["seed"] == resumed["seed"] >= 0
    assert f"SEED: {trained['seed']}\n" in (run / "config.yaml").read_text(encoding="utf-8")
    assert trained["config_file"].endswith("my.yaml")
    roles = [row["role"] for row in trained["datasets"]]
    assert roles == ["labeled", "unlabeled", "unlabeled", "test"]
    assert trained["datasets"] == resumed["datasets"]
    assert trained["datasets"][3:] == evaluated["datasets"]


def test_results_are_added(run: Path) -> None:
    entries = read(run / "results.json")["evaluations"]
    assert [(e["kind"], e["iteration"]) for e in entries] == [
        *(("training", 0), ("evaluation", 0), ("training", 1))
    ]
    first, evaluated, _ = (entry["models"] for entry in entries)
    assert first.keys() == {"teacher", "student"}
    # The evaluation of the saved teacher finds what the training found.
    assert evaluated == {"teacher": first["teacher"]}
    [found] = first["teacher"].values()
    assert found["bbox"]["per_class"].keys() == {"class0", "class1", "class2"}
    page = (run / "results.md").read_text(encoding="utf-8")
    assert page.count("\n## ") == 3


def test_the_configs_are_kept(run: Path) -> None:
    assert "MAX_ITER: 2" in (run / "config.yaml").read_text(encoding="utf-8")
    assert "MAX_ITER: 1" in (run / "config_1.yaml").read_text(encoding="utf-8")
    assert "EVAL_MODEL: teacher" in (run / "config_eval.yaml").read_text(encoding="utf-8")


def test_models_and_evaluations_have_folders_of_their_own(run: Path) -> None:
    found = {path.relative_to(run).parts[:2] for path in run.rglob("coco_instances_results.json")}
    assert found == {
        ("inference", "teacher"),
        ("inference", "student"),
        ("inference_eval", "teacher"),
    }


def test_the_log_shows_the_table(run: Path) -> None:
    log = (run / "log.txt").read_text(encoding="utf-8")
    before, _ = log.split("Starting training from iteration 0", 1)
    assert "Sets of this run:\n| role" in before
