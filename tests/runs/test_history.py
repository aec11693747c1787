from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dre_ssod.runs.history import (
    RunError,
    comparison,
    metric_name,
    read_runs,
    read_series,
)


def write(folder: Path, *lines: dict[str, Any] | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metrics.json").write_text("\n".join(texts) + "\n")
    return folder


def test_series_rise_and_a_resumed_run_wins(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"iteration": 19, "loss": 3.0, "name": "x"},
        {"iteration": 39, "loss": 2.0},
        {"iteration": 19, "loss": 1.0, "lr": 0.1},
    )
    series = read_series(tmp_path / "metrics.json")
    assert series.keys() == {"loss", "lr"}
    assert series["loss"].iterations == [19, 39]
    assert series["loss"].values == [1.0, 2.0]
    assert series["loss"].last == 2.0
    assert series["loss"].best() == (2.0, 39)


def test_a_line_that_is_nested_too_deep_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[" * 100_000 + "\n{}\n")
    with pytest.raises(RunError, match="line 1 is no line of metrics"):
        read_series(tmp_path / "metrics.json")


def test_nan_is_left_out_and_an_unfinished_line_passed_over(tmp_path: Path) -> None:
    write(tmp_path, {"iteration": 1, "a": float("nan"), "b": 1.0}, '{"iteration": 2, "b"')
    assert read_series(tmp_path / "metrics.json").keys() == {"b"}


@pytest.mark.parametrize("broken", ["{", "[]", '{"a": 1}', "7"])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, broken: str) -> None:
    write(tmp_path, broken, {"iteration": 1, "a": 1.0})
    with pytest.raises(RunError, match="line 1 is no line of metrics"):
        read_series(tmp_path / "metrics.json")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        read_runs([tmp_path])
    (tmp_path / "metrics.json").write_text("")
    with pytest.raises(RunError, match="no figures"):
        read_runs([tmp_path])
    write(tmp_path, {"iteration": 1, "a": 1.0})
    with pytest.raises(RunError, match="named twice"):
        read_runs([tmp_path, tmp_path / "."])


def test_runs_have_the_shortest_names_that_differ(tmp_path: Path) -> None:
    line = {"iteration": 1, "a": 1.0}
    folders = [write(tmp_path / a / b, line) for a, b in (("x", "run"), ("y", "run"), ("x", "z"))]
    assert [run.name for run in read_runs(folders[1:])] == ["run", "z"]
    assert [run.name for run in read_runs(folders)] == ["x/run", "y/run", "x/z"]


def test_the_table_has_last_and_best(tmp_path: Path) -> None:
    write(
        tmp_path / "a",
        {"iteration": 10, "teacher/bbox/AP": 40.0, "student/bbox/AP": 41.0},
        {
            "iteration": 20,
            "teacher/bbox/AP": 30.0,
            "teacher/bbox/AP50": 60.0,
            "teacher/bbox/AP-cat": 9.0,
            "pseudo_labels/precision": 0.5,
        },
    )
    write(tmp_path / "b", {"iteration": 5, "teacher/set/bbox/AP": 7.0})
    write(tmp_path / "c", {"iteration": 5, "total_loss": 7.0})
    header, rows = comparison(read_runs([tmp_path / name for name in "abc"]))
    assert header[3:] == ["AP", "AP50", "AP75", "best AP", "at", "precision"]
    assert rows == [
        ["a", "teacher", 21, 30.0, 60.0, None, 40.0, 10, 0.5],
        ["a", "student", 21, 41.0, None, None, 41.0, 10, 0.5],
        ["b", "teacher, set", 6, 7.0, None, None, 7.0, 5, None],
        ["c", "not evaluated", 6, None, None, None, None, None, None],
    ]
    assert metric_name("teacher", "set", "AP") == "teacher/set/bbox/AP"


def test_figures_of_a_teacher_that_labels_no_more_are_not_its_last(tmp_path: Path) -> None:
    sure = {"pseudo_labels/boxes_per_image": 3.0, "pseudo_labels/precision": 0.9}
    write(
        tmp_path,
        {"iteration": 19, "ssod/pseudo_boxes_per_image": 3.0, "ssod/pseudo_score": 0.95, **sure},
        {"iteration": 39, "ssod/pseudo_boxes_per_image": 0.0, "pseudo_labels/boxes_per_image": 0.0},
        {"iteration": 59, "ssod/pseudo_boxes_per_image": 0.0},
    )
    header, (row,) = comparison(read_runs([tmp_path]))
    assert header[8:] == ["boxes per image", "precision", "pseudo boxes per image", "pseudo score"]
    assert row[8:] == [0.0, None, 0.0, None]


def test_a_last_step_without_labels_leaves_what_the_steps_before_it_had(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"iteration": 19, "ssod/pseudo_boxes_per_image": 3.0, "ssod/pseudo_score": 0.9},
        {"iteration": 38, "ssod/pseudo_score": 0.95},
        {"iteration": 39, "ssod/pseudo_boxes_per_image": 0.5},
    )
    assert comparison(read_runs([tmp_path]))[1][0][8:] == [0.5, 0.95]
