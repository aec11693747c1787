"""Exports of Label Studio: which tasks count, where their images are, what shape has which box."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import class_names, load_one_labeled
from dre_ssod.errors import SourceError
from tests.data.written_sets import boxes_of

Writer = Callable[..., Path]


def region(
    value: dict[str, Any], name: str | None = "cat", kind: str = "rectanglelabels", **more: Any
) -> dict[str, Any]:
    """A result on an image of 200 x 100 pixels."""
    named = value if name is None else {**value, kind: [name]}
    size = {"original_width": 200, "original_height": 100, "image_rotation": 0}
    return {"type": kind, "from_name": "label", "to_name": "image", "value": named, **size, **more}


BOX = {"x": 10.0, "y": 20.0, "width": 50.0, "height": 40.0, "rotation": 0}
"""(20, 20, 120, 60) in pixels."""


def task(
    number: int, *annotations: list[dict[str, Any]], image: str = "a.png", **more: Any
) -> dict[str, Any]:
    submitted = [{"result": results, "was_cancelled": False} for results in annotations]
    return {"id": number, "data": {"image": image}, "annotations": submitted, **more}


@pytest.fixture
def read(
    tmp_path: Path, write_image: Writer
) -> Callable[..., tuple[list[dict[str, Any]], list[str], dict[str, list[str]]]]:
    for name in ("a", "b", "sub/c"):
        write_image(tmp_path / "photos" / f"{name}.png", (200, 100))

    def read_tasks(*tasks: Any) -> tuple[list[dict[str, Any]], list[str], dict[str, list[str]]]:
        # A set's classes are read once in a process.
        path = tmp_path / f"export{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(list(tasks)), encoding="utf-8")
        uri, remarks = f"labelstudio://{path}?images={tmp_path}/photos", Remarks()
        records = load_one_labeled(uri, remarks)
        return records, class_names([uri]), dict(remarks.items)

    return read_tasks


def test_submitted_tasks_are_labeled_and_no_others(read: Callable[..., Any]) -> None:
    skipped = {"result": [region(BOX)], "was_cancelled": True}
    guessed = [{"result": [region(BOX)], "score": 0.9}]
    records, classes, remarks = read(
        task(1, [region(BOX, "dog"), region({**BOX, "x": 0.0})]),
        task(2, [], image="sub/c.png"),
        {**task(3, image="b.png"), "annotations": [skipped], "predictions": guessed},
    )
    assert classes == ["cat", "dog"]
    assert [record["image_id"] for record in records] == ["a.png", "sub/c.png"]
    assert boxes_of(records) == [[(1, (20, 20, 120, 60)), (0, (0, 20, 100, 60))], []]
    assert [(record["width"], record["height"]) for record in records] == [(200, 100)] * 2
    assert remarks == {"unlabeled-image": ["b.png"]}


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/3/1a2b3c4d-a.png",
        "/labels/data/upload/3/1a2b3c4d-a.png",
        "https://bucket.host/upload/3/1a2b3c4d-a.png?signature=x",
        "upload/3/1a2b3c4d-a.png",
        "/data/local-files/?d=photos/a.png",
        "/data/local-files/?d=C%3A%5Cphotos%5Ca.png",
        "s3://bucket/some/a.png",
        "https://host:80/x/a.png?token=b.png",
    ],
)
def test_images_are_found_by_the_names_before_upload(
    read: Callable[..., Any], address: str
) -> None:
    [record], _, _ = read(task(1, [region(BOX)], image=address))
    assert record["image_id"] == "a.png"


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("WhatsApp Image 2024-05-01 at 10.11.12 (1).png", None),
        ("Screenshot 5.png", "Screenshot_5.png"),
        ("a+b, c.png", "ab_c.png"),
        ("sub/zelené 1.png", "zelen%C3%A9_1.png"),
        # An older version left names as they were.
        ("Screenshot 5.png", "Screenshot%205.png"),
    ],
)
def test_names_are_those_that_an_upload_makes_of_them(
    read: Callable[..., Any], tmp_path: Path, write_image: Writer, name: str, stored: str | None
) -> None:
    write_image(tmp_path / "photos" / name, (200, 100))
    stored = stored or "WhatsApp_Image_2024-05-01_at_10.11.12_1.png"
    [record], _, _ = read(task(1, [region(BOX)], image=f"/data/upload/3/1a2b3c4d-{stored}"))
    assert record["image_id"] == name


@pytest.mark.parametrize(
    ("names", "stored"),
    [(("IMG 1.png", "IMG_1.png"), "IMG_1.png"), (("a.png", "sub/a.png"), "a.png")],
)
def test_an_upload_that_can_be_of_two_images_is_refused(
    read: Callable[..., Any],
    tmp_path: Path,
    write_image: Writer,
    names: tuple[str, str],
    stored: str,
) -> None:
    for name in names:
        write_image(tmp_path / "photos" / name, (200, 100))
    with pytest.raises(SourceError, match=f"'{stored}' can be {names[0]} and {names[1]}; rename"):
        read(task(1, [region(BOX)], image=f"/data/upload/3/1a2b3c4d-{stored}"))


def test_an_address_with_folders_is_no_image_of_another_folder(read: Callable[..., Any]) -> None:
    with pytest.raises(SourceError, match="none of which is in"):
        read(task(1, [region(BOX)], image="s3://bucket/other/c.png"))


@pytest.mark.parametrize("submitted", [[], [[]]])
@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=photos/{}/c.png",
        "s3://bucket/{}/c.png",
        "/data/upload/1/{}1111-c.png",
    ],
)
def test_an_image_is_that_of_one_address(
    read: Callable[..., Any],
    tmp_path: Path,
    write_image: Writer,
    address: str,
    submitted: list[list[dict[str, Any]]],
) -> None:
    """Of another image of the name, whose folder is not there, the labels would be its own.

    So it is where the image's own task was never submitted.
    """
    write_image(tmp_path / "photos" / "c.png", (200, 100))
    (tmp_path / "photos" / "sub" / "c.png").unlink()
    own, other = (address.format(name) for name in ("abab", "cdcd"))
    tasks = (task(1, *submitted, image=own), task(2, [region(BOX)], image=other))
    with pytest.raises(SourceError, match="can be the image of one of them alone; rem") as found:
        read(*tasks)
    assert f"task 2: {other!r} leads to c.png, as {own!r} of " in str(found.value)
    assert "task 1 does" in str(found.value)
    if "upload" in address:
        return
    for name in ("abab", "cdcd"):
        write_image(tmp_path / "photos" / name / "c.png", (200, 100))
    records, _, _ = read(*tasks)
    assert [record["image_id"] for record in records][-1] == "cdcd/c.png"


def test_tasks_that_nobody_has_submitted_need_no_image_of_their_own(
    read: Callable[..., Any], tmp_path: Path, write_image: Writer
) -> None:
    """Neither a second one of an address, nor one that can be of two images, or has none."""
    write_image(tmp_path / "photos" / "more" / "c.png", (200, 100))
    texts = {"data": {"text": "cats", "thumb": "s3://small/a.png"}}
    tasks = [task(1), task(2, image="c.png"), task(3, image="gone.png"), task(4) | texts]
    [record], _, _ = read(*tasks, task(5, [region(BOX)]))
    assert record["image_id"] == "a.png"


def test_the_short_form_and_classes_of_another_control(read: Callable[..., Any]) -> None:
    value = {**BOX, "rectanglelabels": ["cat"], "original_width": 200, "original_height": 100}
    short = {"id": 1, "image": "a.png", "label": [value], "annotator": 1}
    records, _, _ = read(short, {"id": 2, "image": "b.png", "annotator": 1})
    assert boxes_of(records) == [[(0, (20, 20, 120, 60))]]
    # What has an id was submitted; a list of the task's own data says nothing.
    empty = {"id": 2, "image": "b.png", "annotation_id": 7, "tags": []}
    records, _, _ = read(short, empty, {"id": 3, "image": "sub/c.png", "tags": []})
    assert [record["image_id"] for record in records] == ["a.png", "b.png"]
    assert boxes_of(records) == [[(0, (20, 20, 120, 60))], []]
    shape = region(BOX, None, "rectangle", id="x")
    named = region(BOX, "dog", "labels", id="x")
    records, classes, _ = read(task(1, [shape, named]))
    assert (boxes_of(records), classes) == ([[(0, (20, 20, 120, 60))]], ["dog"])


@pytest.mark.parametrize(
    ("value", "kind", "box"),
    [
        ({"points": [[10, 20], [60, 30], [5, 90]]}, "polygonlabels", (10, 20, 120, 90)),
        ({"x": 50, "y": 50, "radiusX": 10, "radiusY": 20}, "ellipselabels", (80, 30, 120, 70)),
        # Turned clockwise by 90 degrees about its upper left corner, (100, 10): 40 x 20 pixels.
        (
            {"x": 50, "y": 10, "width": 20, "height": 20, "rotation": 90},
            "rectanglelabels",
            (80, 10, 100, 50),
        ),
    ],
)
def test_shapes_give_the_box_around_them(
    read: Callable[..., Any], value: dict[str, Any], kind: str, box: tuple[float, ...]
) -> None:
    records, _, _ = read(task(1, [region(value, "cat", kind)]))
    [[(_, found)]] = boxes_of(records)
    assert found == pytest.approx(box, abs=1e-6)


def test_boxes_are_of_the_picture_that_they_were_drawn_on(read: Callable[..., Any]) -> None:
    second = region(BOX, to_name="second")
    both = {"data": {"image": "a.png", "second": "b.png"}}
    [record], _, _ = read(task(1, [second]) | both)
    assert record["image_id"] == "b.png"
    choice = region({"choices": ["blurred"]}, None, "choices")
    [record], _, _ = read(task(1, [second, choice]) | both)
    assert record["image_id"] == "b.png"
    with pytest.raises(SourceError, match=r"task 1: has boxes on 2 pictures \('image', 'second'\)"):
        read(task(1, [region(BOX), second]) | both)


def test_what_has_no_box_is_counted(read: Callable[..., Any]) -> None:
    point = region({"x": 1, "y": 2, "width": 1}, "cat", "keypointlabels")
    brush = region({"format": "rle", "rle": [1]}, "dog", "brushlabels")
    choice = region({"choices": ["blurred"]}, None, "choices")
    link = {"type": "relation", "from_id": "a", "to_id": "b"}
    records, _, remarks = read(task(7, [point, brush, choice, link, region(BOX)]))
    assert boxes_of(records) == [[(0, (20, 20, 120, 60))]]
    assert [text.partition("task ")[2] for text in remarks["no-box"]] == ["7: cat", "7: dog"]


def test_of_several_annotations_the_marked_one_counts(read: Callable[..., Any]) -> None:
    several = task(5, [region(BOX, "dog")], [region(BOX)])
    with pytest.raises(SourceError, match=r"task 5: has 2 annotations; mark the right one as"):
        read(several)
    several["annotations"][1]["ground_truth"] = True
    assert read(several)[1] == ["cat"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (task(1, []) | {"annotations": 3}, "task 1: 'annotations' must be a list"),
        (task(1, []) | {"annotations": [{"result": None}]}, "'result' must be a list"),
        (task(1, [{"type": "x"}]), "a result has no 'value'"),
        (task(1, [region(BOX, None)]), r"a region has 0 classes \(\[\]\); give it one"),
        (task(1, [region({**BOX, "x": "1"})]), "needs the numbers x, y, width, height"),
        (task(1, [region({"points": [[1]]}, "a", "polygonlabels")]), "needs 1 points"),
        (task(1, [region(BOX, original_width=0)]), "original_width and _height are 0 and 100"),
        (task(1, [region(BOX) | {"original_width": None, "original_height": None}]), "has no orig"),
        (task(1, [region(BOX, image_rotation=90)]), "turned view of the image, by 90 degrees"),
        (task(1, [region(BOX, "\x1b[2J")]), "control character"),
        (task(1, [region(BOX)], image="http://["), "which value of its data is the image"),
        (task(1), "none of its 1 tasks has been submitted"),
        (3, "is no export of Label Studio as JSON, which is a list of tasks"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    read: Callable[..., Any], content: Any, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        read(content)
