from __future__ import annotations

import json
from pathlib import Path

from dre_ssod.benchmark.report import Goal, Report, Row
from dre_ssod.benchmark.timing import Timing


def report() -> Report:
    return Report(
        "step",
        {"rounds": 3},
        {"cores": 2},
        [Row.milliseconds("step", Timing((0.25, 0.5, 0.75)), per=2)],
        [Goal("ratio", 1.05, 1.10), Goal("memory", 3.0, 2.0, "MiB")],
    )


def test_a_row_is_the_median_of_an_item_in_milliseconds() -> None:
    assert report().rows == [Row("step", 250.0, "ms", (187.5, 312.5))]


def test_the_text_says_what_was_met_and_missed() -> None:
    lines = report().text().splitlines()
    assert "  cores: 2" in lines
    assert "  rounds: 3" in lines
    assert [line.split()[-1] for line in lines[-2:]] == ["met", "missed"]
    assert any("187.5 to 312.5" in line for line in lines)


def test_a_bound_that_is_just_reached_is_met() -> None:
    assert Goal("a", 2.0, 2.0).met


def test_the_json_holds_everything(tmp_path: Path) -> None:
    report().save(tmp_path / "new" / "report.json")
    content = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert content["name"] == "step"
    assert content["goals"][1] == {"name": "memory", "value": 3.0, "bound": 2.0, "unit": "MiB"}
    assert content["rows"][0]["quartiles"] == [187.5, 312.5]
