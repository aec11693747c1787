"""Images of COCO files that have no annotations: looked at, or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import load_one_labeled, load_unlabeled
from dre_ssod.errors import SourceError
from tests.data.sources.test_coco import Writer, source_of
from tests.data.written_sets import read_usable


def test_images_without_annotations_are_what_the_uri_says(
    tmp_path: Path, write_coco: Writer
) -> None:
    """CVAT lists all images of a task, also those that nobody has looked at."""
    path = write_coco(tmp_path / "a.json", {1: [(1, (0, 0, 2, 2))], 2: [], 3: []}, {1: "cat"})
    (tmp_path / "images").mkdir()
    uri = f"coco://{path}?images={tmp_path}/images"

    def read(more: str) -> tuple[list[int], dict[str, list[str]]]:
        remarks = Remarks()
        records = load_one_labeled(uri + more, remarks)
        return [record["image_id"] for record in records], dict(remarks.items)

    assert read("") == ([1, 2, 3], {"many-empty": ["2 of 3 images"]})
    assert read("&empty=labeled") == ([1, 2, 3], {})
    drawn, remarks = read("&empty=unlabeled")
    assert drawn == [1]
    assert remarks == {"unlabeled-image": [f"{tmp_path}/images/{n}.png" for n in (2, 3)]}
    # As an unlabeled set it has them all, of which training leaves out the labeled one.
    assert len(load_unlabeled([f"{uri}&empty=unlabeled"])) == 3
    with pytest.raises(SourceError, match="empty=none is unknown; valid: unlabeled, labeled"):
        read("&empty=none")


def test_few_images_without_annotations_are_no_sign_and_none_at_all_is_no_labeled_set(
    tmp_path: Path, write_coco: Writer
) -> None:
    box = [(1, (0, 0, 2, 2))]
    few = source_of(write_coco(tmp_path / "a.json", {1: box, 2: box, 3: []}, {1: "cat"}))
    assert not read_usable(few)[1]
    # A file of images to be found objects in, for a server that evaluates.
    none = source_of(write_coco(tmp_path / "b.json", {1: [], 2: []}, {1: "cat"}))
    assert not read_usable(none)[1]
    with pytest.raises(SourceError, match="none of its 2 images has an annotation, so empty=unla"):
        replace(none, empty="unlabeled").labeled(Remarks())


def test_a_registered_coco_file_is_looked_at_in_the_same_way(
    tmp_path: Path, write_coco: Writer
) -> None:
    path = write_coco(tmp_path / "a.json", {1: [(1, (0, 0, 2, 2))], 2: []}, {1: "cat"})
    register_coco_instances("half_drawn", {}, str(path), str(tmp_path))
    remarks = Remarks()
    try:
        load_one_labeled("half_drawn", remarks)
    finally:
        DatasetCatalog.pop("half_drawn")
        MetadataCatalog.pop("half_drawn")
    assert remarks.items["many-empty"] == ["1 of 2 images"]
