"""Figures, sets that cannot be used, leakage and classes: what the audit says of whole sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from dre_ssod.data.audit.audit import audit
from tests.planted_sets import SIZE, Planted, by_kind, write_planted


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return write_planted(tmp_path)


@pytest.fixture
def registered() -> Iterator[Callable[[list[dict[str, Any]]], str]]:
    """Register records under a name for the length of a test."""
    name = "audit_test_registered"

    def register(records: list[dict[str, Any]]) -> str:
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(thing_classes=["cat", "dog"])
        return name

    yield register
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


@pytest.mark.parametrize("level", ["header", "full"])
def test_sound_sets_have_no_finding(planted: Planted, level: str) -> None:
    report = audit(planted.names, level)
    assert report.findings == []
    assert not report.failed
    assert (report.files, report.level, report.workers) == (9, level, 1)


def test_figures_of_a_set(planted: Planted) -> None:
    crowd = {"id": 98, "image_id": 3, "category_id": 2, "bbox": [0, 0, 5, 5], "area": 25}
    planted.change("labeled", lambda c: c["annotations"].append({**crowd, "iscrowd": 1}))
    Image.new("L", SIZE).save(planted.image("labeled/2.jpg"))
    labeled, unlabeled, test = audit(planted.names).summaries
    assert (labeled.label, unlabeled.label, test.label) == ("labeled 1", "unlabeled 1", "test 1")
    assert (labeled.images, labeled.boxes, labeled.crowd_regions) == (3, 3, 1)
    assert labeled.boxes_an_image == {"mean": 1.0, "min": 0.0, "median": 1.0, "max": 2.0}
    assert labeled.images_without_boxes == 1
    assert labeled.class_histogram == {"cat": 2, "dog": 1}
    # Sides sqrt(4 * 9) = 6, 16 and sqrt(40 * 30) = 34.64, of an image whose side is 34.64.
    assert labeled.box_areas == {"small": 2, "medium": 1, "large": 0}
    assert labeled.side_quantiles["0.5"] == pytest.approx(16)
    assert labeled.relative_side_quantiles["0.5"] == pytest.approx(16 / 1200**0.5)
    assert labeled.modes == {"RGB": 2, "L": 1}
    assert labeled.image_sizes == {"smallest": SIZE, "largest": SIZE}
    assert (unlabeled.boxes, unlabeled.boxes_an_image, unlabeled.class_histogram) == (0, {}, {})


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([0, 0, 31.9, 32], "small"),
        ([0, 0, 32, 32], "medium"),
        ([0, 0, 72, 127.9], "medium"),
        ([0, 0, 72, 128], "large"),
        ([0, 0, 1e4, 1e4], "large"),
    ],
)
def test_the_bounds_of_size(planted: Planted, box: list[float], kind: str) -> None:
    planted.add_box(box, "test")
    before, after = (
        audit({"test": planted.names["labeled"]}),
        audit({"test": planted.names["test"]}),
    )
    counts = dict(before.summaries[0].box_areas)
    counts[kind] += 1
    assert after.summaries[0].box_areas == counts
    assert all(map(np.isfinite, after.summaries[0].side_quantiles.values()))


def test_a_broken_annotation_is_the_sets_error_and_the_others_go_on(planted: Planted) -> None:
    planted.add_box([1, 2, 3])  # type: ignore[list-item]
    planted.image("labeled/2.jpg").write_bytes(b"")
    planted.image("test/1.jpg").unlink()
    found = planted.found()
    assert list(found) == [
        "unusable-set: labeled 1",
        "empty-file: labeled 1",
        "missing-file: test 1",
    ]
    assert "annotation 99 needs 'bbox'" in found["unusable-set: labeled 1"][0]


def test_an_id_that_a_file_uses_twice_is_named(planted: Planted) -> None:
    planted.change("test", lambda content: content["images"][1].update(id=1))
    found = planted.found()
    assert list(found) == ["unusable-set: test 1"]
    assert "the id 1 is used twice" in found["unusable-set: test 1"][0]


@pytest.mark.parametrize(
    "name", ["folder://gone", "coco_2017_nonsense", "nonsense://a", "folder://{root}/labeled"]
)
def test_a_set_that_cannot_be_labeled(planted: Planted, name: str) -> None:
    names = {**planted.names, "labeled": [name.format(root=planted.root)]}
    assert list(by_kind(audit(names))) == ["unusable-set: labeled 1"]


def test_no_boxes(planted: Planted) -> None:
    planted.change("test", lambda content: content.update(annotations=[]))
    assert planted.found() == {"no-boxes: test 1": planted.names["test"]}


def test_registered_sets_are_not_trusted(
    planted: Planted, registered: Callable[[list[dict[str, Any]]], str]
) -> None:
    def record(number: int, *boxes: tuple[int, list[float]]) -> dict[str, Any]:
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category}
            for category, box in boxes
        ]
        name = str(planted.image(f"unlabeled/{number}.jpg"))
        return {"file_name": name, "image_id": number, "annotations": annotations}

    records = [
        record(1, (0, [1, 1, 5, 5]), (1, [1, 1, 6, 6]), (1, [1, 1, 1, 5])),
        record(2, (1, [1, 1, float("inf"), 5]), (1, [-1e308, 1, 1e308, 5])),
    ]
    name = registered(records)
    first, second = (str(planted.image(f"unlabeled/{number}.jpg")) for number in (1, 2))
    assert by_kind(audit({"test": [name]})) == {
        "empty-box: test 1": [f"{first} [1, 1, 1, 5]"],
        "nan-box: test 1": [f"{second} [1, 1, inf, 5]", f"{second} [-1e+308, 1, 1e+308, 5]"],
    }
    records[1]["image_id"] = 1
    found = by_kind(audit({"test": [name]}))
    assert list(found) == ["unusable-set: test 1", "duplicate-id: test 1"]
    assert f"({second}): the image_id 1 is used twice" in found["unusable-set: test 1"][0]


def test_an_unlabeled_set_may_have_ids_twice(
    planted: Planted, registered: Callable[[list[dict[str, Any]]], str]
) -> None:
    files = [str(planted.image(f"unlabeled/{number}.jpg")) for number in (1, 2)]
    name = registered([{"file_name": file, "image_id": 7} for file in files])
    assert by_kind(audit({"unlabeled": [name]})) == {
        "duplicate-id: unlabeled 1": [f"id 7: {files[1]}"]
    }


def test_whatever_a_registered_set_raises_is_its_error(
    registered: Callable[[Any], str],
) -> None:
    def fail() -> None:
        raise KeyError("bbox")

    name = registered([])
    DatasetCatalog.pop(name)
    DatasetCatalog.register(name, fail)
    found = by_kind(audit({"test": [name]}))
    assert found == {"unusable-set: test 1": ["audit_test_registered: KeyError: 'bbox'"]}


def test_leakage_and_other_duplicates(planted: Planted) -> None:
    def copy(source: str, target: str) -> str:
        planted.image(target).write_bytes(planted.image(source).read_bytes())
        return " = ".join(str(planted.image(name)) for name in (source, target))

    twice = copy("unlabeled/1.jpg", "unlabeled/4.jpg")
    both = copy("labeled/1.jpg", "unlabeled/2.jpg")
    from_labels = copy("labeled/2.jpg", "test/1.jpg")
    from_pool = copy("unlabeled/3.jpg", "test/2.jpg")
    report = audit(planted.names)
    assert by_kind(report) == {
        "leakage: labeled 1, test 1": [from_labels],
        "leakage: unlabeled 1, test 1": [from_pool],
        "duplicate-file: labeled 1, unlabeled 1": [both],
        "duplicate-file: unlabeled 1": [twice],
    }
    assert report.failed


def test_the_same_set_in_two_roles_leaks(planted: Planted) -> None:
    names = {"labeled": planted.names["labeled"], "test": planted.names["labeled"]}
    found = by_kind(audit(names))
    assert list(found) == ["leakage: labeled 1, test 1"]
    assert len(found["leakage: labeled 1, test 1"]) == 3


def test_two_test_sets_may_share_images(planted: Planted) -> None:
    names = {"test": planted.names["test"] * 2}
    report = audit(names)
    assert list(by_kind(report)) == ["duplicate-file: test 1, test 2"]
    assert not report.failed


def test_classes_that_differ(planted: Planted) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["categories"][1]["name"] = "wolf"

    planted.change("test", rename)
    assert planted.found() == {
        "class-mismatch: labeled 1, test 1": [
            "only labeled 1 has 'dog'; only test 1 has 'wolf'",
        ],
        "untrained-class: labeled 1": ["'wolf' (1 boxes in the test sets)"],
    }


def test_classes_in_another_order(planted: Planted) -> None:
    def swap(content: dict[str, Any]) -> None:
        first, second = content["categories"]
        first["name"], second["name"] = second["name"], first["name"]

    planted.change("test", swap)
    assert planted.found() == {
        "class-mismatch: labeled 1, test 1": [
            "labeled 1 has the order 'cat', 'dog'; test 1 has the order 'dog', 'cat'"
        ]
    }


def test_a_class_that_nothing_teaches(planted: Planted) -> None:
    planted.change("labeled", lambda content: content["annotations"].pop(1))
    assert planted.found() == {"untrained-class: labeled 1": ["'dog' (1 boxes in the test sets)"]}


@pytest.mark.parametrize(
    "wrong", [{"level": "deep"}, {"workers": 0}, {"names": {"train": ["folder://a"]}}]
)
def test_wrong_arguments(planted: Planted, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="level"):
        audit(**{"names": planted.names, **wrong})


def test_progress_counts_every_file_once(planted: Planted) -> None:
    bar = Mock()
    audit(planted.names, progress=bar)
    bar.reset.assert_called_once_with(9)
    assert sum(call.args[0] for call in bar.update.call_args_list) == 9
