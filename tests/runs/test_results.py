from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dre_ssod.runs.results import format_results, record_results, saved_iteration
from tests.factories import tiny_cfg

NAN = math.nan
BBOX = {"AP": 40.0, "AP50": 71.25, "APl": NAN, "AP-cat": 50.0, "AP-hair-drier": 30.0}
VOC = {"AP": 41.0, "AP50": 72.0, "AP50-cat": NAN, "AP50-hair-drier": 72.0}


def config(folder: Path, *test_sets: str) -> Any:
    return tiny_cfg(**{"OUTPUT_DIR": str(folder), "DATASETS.TEST": test_sets})


def evaluations(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "results.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text, parse_constant=refuse)["evaluations"]
    return found


def rows(text: str) -> list[list[str]]:
    """Cells of the lines that are rows of a table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_figures_go_by_model_set_protocol_and_class(tmp_path: Path) -> None:
    results = {"teacher": {"bbox": BBOX, "voc07_bbox": VOC}, "student": {"bbox": BBOX}}
    record_results(config(tmp_path, "my_set"), results, "training", "model_final.pth", 99)
    [entry] = evaluations(tmp_path)
    assert (entry["kind"], entry["checkpoint"], entry["iteration"]) == (
        *("training", "model_final.pth"),
        99,
    )
    found = entry["models"]["teacher"]["my_set"]
    assert found["bbox"] == {
        "metrics": {"AP": 40.0, "AP50": 71.25, "APl": None},
        "per_class": {"cat": {"AP": 50.0}, "hair-drier": {"AP": 30.0}},
    }
    assert found["voc07_bbox"]["per_class"]["cat"] == {"AP50": None}
    assert entry["models"]["student"].keys() == {"my_set"}


def test_several_sets_keep_their_names(tmp_path: Path) -> None:
    results = {"teacher": {"a": {"bbox": BBOX}, "b": {"bbox": {"AP": 1.0}}}}
    record_results(config(tmp_path, "a", "b"), results, "training", "m.pth", 0)
    [entry] = evaluations(tmp_path)
    found = entry["models"]["teacher"]
    assert found["a"]["bbox"]["metrics"]["AP"] == 40.0
    assert found["b"]["bbox"] == {"metrics": {"AP": 1.0}, "per_class": {}}


def test_the_page_shows_the_same_figures(tmp_path: Path) -> None:
    results = {"teacher": {"bbox": BBOX, "voc07_bbox": VOC}, "student": {"bbox": BBOX}}
    record_results(config(tmp_path, "my_set"), results, "training", "m.pth", 99)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    cells = [[cell.strip("| ") for cell in row] for row in rows(text)]
    assert ["teacher", "my_set", "bbox", "40.00", "71.25", "-", "-", "-", "-"] in cells
    assert ["teacher", "my_set", "voc07_bbox", "41.00", "72.00", "-", "-", "-", "-"] in cells
    assert ["class", "teacher bbox AP", "teacher voc07_bbox AP50", "student bbox AP"] in cells
    assert ["hair-drier", "30.00", "72.00", "30.00"] in cells
    assert ["cat", "50.00", "-", "50.00"] in cells
    assert "## Training: `m.pth`, iteration 99" in text
    assert "- `voc07_bbox`: PASCAL VOC 2007 AP (11 points)" in text
    # What was not measured is not explained.
    assert "voc10_bbox" not in text


def test_a_later_evaluation_leaves_the_trainings_results(tmp_path: Path) -> None:
    cfg = config(tmp_path, "my_set")
    record_results(cfg, {"teacher": {"bbox": BBOX}}, "training", "model_final.pth", 99)
    [first] = evaluations(tmp_path)
    record_results(cfg, {"teacher": {"bbox": {"AP": 3.0}}}, "evaluation", "other.pkl", None)
    assert evaluations(tmp_path)[0] == first
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    latest, earlier = text.index("## Evaluation: `other.pkl`\n"), text.index("## Training")
    assert latest < earlier


def test_nothing_is_written_without_a_test_set_or_beside_the_main_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_results(config(tmp_path), {"teacher": {}}, "training", "m.pth", 1)
    monkeypatch.setattr("dre_ssod.runs.results.comm.is_main_process", lambda: False)
    record_results(config(tmp_path, "a"), {"teacher": {"bbox": BBOX}}, "training", "m.pth", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_bar_in_a_name_stays_in_its_cell() -> None:
    protocols = {"bbox": {"metrics": {"AP": 1.0}, "per_class": {"a|b": {"AP": 1.0}}}}
    entry = {
        **{"kind": "training", "checkpoint": "m.pth", "iteration": 1, "finished": "now"},
        "models": {"teacher": {"set": protocols}},
    }
    assert "| a\\|b" in format_results([entry])


def test_the_iteration_of_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(2)}, "iteration": 41}, tmp_path / "ours.pth")
    torch.save({"model": {"a": torch.zeros(2)}}, tmp_path / "other.pth")
    assert saved_iteration(str(tmp_path / "ours.pth")) == 41
    assert saved_iteration(str(tmp_path / "other.pth")) is None
    assert saved_iteration("detectron2://model.pkl") is None


def test_class_names_are_text_in_the_page(tmp_path: Path) -> None:
    figures = {"AP": 40.0, "AP-<script>alert(1)</script>": 50.0, "AP-\x1b[2Jred|blue": 30.0}
    record_results(config(tmp_path, "my_set"), {"teacher": {"bbox": figures}}, "training", "a", 1)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\\x1b[2Jred\\|blue" in page
    assert "<script>" not in page
    assert "\x1b" not in page
