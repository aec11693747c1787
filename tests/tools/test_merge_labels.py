"""The tool, from two sets to one file that a training reads."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from dre_ssod.data.sources.catalog import load_one_labeled
from tests.tiny_dataset import write_tiny_dataset


def test_it_prints_what_reads_the_joined_labels(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    output = tmp_path / "round 2.json"
    words = ["--old", data.labeled, "--corrected", data.labeled, "--suggested", data.labeled]
    assert tool.run([*words, "--output", str(output)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "8 images with 24 boxes, 0 of them new or changed:"
    assert [len(record["annotations"]) for record in load_one_labeled(said[1].strip())] == [3] * 8
    assert "24 kept, 0 moved, 0 given another class, 0 removed; 0 added" in said[2]
    assert "Precision 1.00, recall 1.00" in said[2]
    assert said[1].strip() in said[4]
    assert "DATASETS.UNLABELED" in said[5]
    assert tool.run([*words, "--output", str(output)]) == 2
    assert "exists; choose another name" in " ".join(capsys.readouterr().err.split())


def test_masks_stay_and_those_of_replaced_labels_are_counted(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_dataset(tmp_path)
    path = Path(data.labeled.removeprefix("coco://").partition("?")[0])
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        x, y, w, h = item["bbox"]
        item["segmentation"] = [[x, y, x + w, y, x, y + h]]
        item["area"] = w * h / 2
    old = path.with_name("old.json")
    old.write_text(json.dumps(content))
    del content["annotations"][0]
    path.write_text(json.dumps(content))
    corrected, before = data.labeled, data.labeled.replace(path.name, old.name)
    output = tmp_path / "new.json"
    words = ["--old", before, "--corrected", corrected, "--replace", "--output", str(output)]
    assert tool.run(words) == 0
    said = capsys.readouterr().out
    assert "Masks or key points of 3 objects are left out: their labels were replaced" in said
    written = json.loads(output.read_text())["annotations"]
    own = [{key: item[key] for key in ("segmentation", "area")} for item in written]
    assert own == [
        {key: item[key] for key in ("segmentation", "area")} for item in content["annotations"]
    ]
