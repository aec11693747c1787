"""The tool, from two sets to one file that a training reads."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dre_ssod.data.sources.catalog import load_one_labeled
from tests.tiny_dataset import TinyDataset, write_tiny_dataset


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


def write_labels(folder: Path) -> tuple[TinyDataset, Path, dict[str, Any]]:
    """A set, and what its file of labels holds."""
    data = write_tiny_dataset(folder)
    path = Path(data.labeled.removeprefix("coco://").partition("?")[0])
    return data, path, json.loads(path.read_text())


def test_ids_stay_or_the_tool_says_why_not(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of the next round writes these class ids beside those of the test set."""
    data, path, content = write_labels(tmp_path)
    for item in content["annotations"]:
        item["category_id"] *= 7
        item["image_id"] += 500
    for item in content["categories"]:
        item["id"] *= 7
    for image in content["images"]:
        image["id"] += 500
    images = content["images"]
    parts = {"old": images[:5], "new": images[5:], "again": [images[5] | {"id": 501}]}
    for name, part in parts.items():
        own = {image["id"] for image in part}
        items = [item for item in content["annotations"] if item["image_id"] in own]
        text = json.dumps({**content, "images": part, "annotations": items})
        path.with_name(f"{name}.json").write_text(text)
    sets = {name: data.labeled.replace(path.name, f"{name}.json") for name in parts}
    for name, said, ids in (
        ("new", False, [image["id"] for image in images]),
        ("again", True, [1, 2, 3, 4, 5, 6]),
    ):
        output = tmp_path / f"with_{name}.json"
        words = ["--old", sets["old"], "--corrected", sets[name], "--output", str(output)]
        assert tool.run(words) == 0
        written = json.loads(output.read_text())
        assert written["categories"] == content["categories"]
        assert [image["id"] for image in written["images"]] == ids
        assert ("Image ids are new, from 1 on: " in capsys.readouterr().out) == said


def test_masks_stay_and_those_of_replaced_labels_are_counted(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, path, content = write_labels(tmp_path)
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
