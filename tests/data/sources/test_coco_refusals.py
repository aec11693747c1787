"""COCO files that are refused, and what their message names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.errors import SourceError
from tests.data.sources.test_coco import Writer, source_of


def image(**changed: Any) -> dict[str, Any]:
    return {"id": 1, "file_name": "1.png", "height": 6, "width": 8, **changed}


def annotation(**changed: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], **changed}


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"images": None}, "'images' must be a list; it is NoneType"),
        ({"images": []}, "'images' is empty"),
        ({"images": [3]}, r"images\[0\] must be an object, is 3"),
        ({"images": [image(id="1")]}, r"images\[0\] needs an integer 'id', has '1'"),
        ({"images": [image(), image()]}, "images: the id 1 is used twice"),
        ({"images": [image(file_name="")]}, "image 1 needs a 'file_name'"),
        ({"images": [image(height=None)]}, "image 1 needs a positive integer 'height', has None"),
        ({"images": [image(width=0)]}, "image 1 needs a positive integer 'width', has 0"),
        ({"categories": [{"id": 1}]}, "category 1 needs a name, has None"),
        ({"annotations": [annotation(id=None)]}, r"annotations\[0\] needs an integer 'id'"),
        ({"annotations": [annotation(category_id=9)]}, r"category_id 9; 'categories' names \[1\]"),
        ({"annotations": [annotation(image_id="x")]}, "needs an integer 'image_id', has 'x'"),
        ({"annotations": [annotation(bbox=[1, 2, 3])]}, r"needs 'bbox' as \[x, y, width, height\]"),
        ({"annotations": [annotation(bbox=[1, 2, 3, "4"])]}, "annotation 1 needs 'bbox'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(
    tmp_path: Path, write_coco: Writer, replaced: dict[str, Any], message: str
) -> None:
    path = write_coco(tmp_path / "a.json", {1: []}, {1: "cat"}, replaced=replaced)
    with pytest.raises(SourceError, match=message) as caught:
        source_of(path).metadata()
    assert str(path) in str(caught.value)


def test_a_labeled_set_lists_an_image_once(tmp_path: Path, write_coco: Writer) -> None:
    """Else there were two images with a part of the objects each; without labels it is no fault."""
    images = [image(), image(id=7, file_name="./1.png"), image(id=9, file_name="2.png")]
    objects = [annotation(), annotation(id=2, image_id=7)]
    replaced = {"images": images, "annotations": objects}
    path = write_coco(tmp_path / "a.json", {1: []}, {1: "cat"}, replaced=replaced)
    source = source_of(path)
    said = rf"^{path}: images 1 and 7 are one file, {source.image_root / '1.png'}; .*'image_id'"
    with pytest.raises(SourceError, match=said):
        source.labeled(Remarks())
    assert len(source.images(Remarks())) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"images": [', "not valid JSON"),
        (b"[]", "holds a list; a COCO file is an object"),
        (b"\xff\xfe{}", "cannot be read"),
    ],
)
def test_files_that_are_no_json_objects(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        source_of(path).metadata()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('<?xml version="1.0"?><annotations><version>1.1</version></annotations>', "cvat://"),
        ("<annotation><filename>a.jpg</filename></annotation>", "voc://"),
        ('[{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}]', "labelstudio://"),
        ('[{"id": 1, "image": "a.jpg", "annotation_id": 3}]', "labelstudio://"),
        ('{"version": "5", "shapes": [], "imagePath": "a.jpg"}', "labelme://"),
        ('{"a.jpg12": {"filename": "a.jpg", "size": 12, "regions": []}}', "via://"),
        ('{"_via_img_metadata": {"a": {"filename": "a.jpg", "regions": {}}}}', "via://"),
    ],
)
def test_a_file_of_another_program_is_recognized(tmp_path: Path, text: str, form: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=f"looks like one for {form}"):
        CocoSource("set", path, tmp_path).labeled(Remarks())


@pytest.mark.parametrize("text", ["[1]", "[]", "{}", '{"a": 1}', "<html>", "3"])
def test_nothing_is_said_of_what_is_not_recognized(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(SourceError) as error:
        CocoSource("set", path, tmp_path).labeled(Remarks())
    assert "looks like" not in str(error.value)
