"""Files of CVAT, LabelMe and the VGG Image Annotator: shapes, classes, what is labeled."""

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

META = "<meta><task><labels>{}</labels></task></meta>".format(
    "".join(f"<label><name>{name}</name></label>" for name in ("dog", "cat"))
)
DISK = (30, 10, 50, 50)


@pytest.fixture
def root(tmp_path: Path, write_image: Writer) -> Path:
    """Two images of 200 x 100 pixels in ``photos``."""
    for name in ("a", "b"):
        write_image(tmp_path / "photos" / f"{name}.png", (200, 100))
    return tmp_path


def read(uri: str) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    remarks = Remarks()
    return load_one_labeled(uri, remarks), dict(remarks.items)


def cvat(root: Path, *images: str, query: str = "", meta: str = META) -> str:
    """The URI of a task with these images, each the shapes on it."""
    body = "".join(
        f'<image id="{n}" name="photos/{"ab"[n]}.png" width="200" height="100">{shapes}</image>'
        for n, shapes in enumerate(images)
    )
    text = f"<annotations><version>1.1</version>{meta}{body}</annotations>"
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    return f"cvat://{root}/annotations.xml?images={root}/photos{query}"


def labelme(root: Path, *shapes: dict[str, Any], **more: Any) -> str:
    """The URI of a folder with a file for the first image."""
    (root / "labels").mkdir(exist_ok=True)
    content: dict[str, Any] = {"shapes": list(shapes), "imagePath": "..\\photos\\a.png", **more}
    (root / "labels" / "a.json").write_text(json.dumps(content), encoding="utf-8")
    return f"labelme://{root}/labels?images={root}/photos"


def via(root: Path, *images: list[dict[str, Any]], query: str = "", project: bool = False) -> str:
    """The URI of a project with these images, each the regions on it."""
    content: dict[str, Any] = {
        f"{name}123": {"filename": f"{name}.png", "size": 123, "regions": regions}
        for name, regions in zip("ab", images, strict=False)
    }
    content = {"_via_settings": {}, "_via_img_metadata": content} if project else content
    (root / "via.json").write_text(json.dumps(content), encoding="utf-8")
    return f"via://{root}/via.json?images={root}/photos{query}"


def rect(**attributes: Any) -> dict[str, Any]:
    shape = {"name": "rect", "x": 1, "y": 2, "width": 30, "height": 40}
    return {"shape_attributes": shape, "region_attributes": attributes}


def test_cvat_has_the_classes_of_its_task(root: Path) -> None:
    box = '<box label="{}" xtl="1.50" ytl="2" xbr="30" ybr="40.25" z_order="0"></box>'
    uri = cvat(root, box.format("cat") + box.format("dog") + '<tag label="cat"/>', "")
    records, remarks = read(uri)
    assert class_names([uri]) == ["dog", "cat"]
    assert [record["image_id"] for record in records] == ["a.png"]
    assert boxes_of(records) == [[(1, (1.5, 2, 30, 40.25)), (0, (1.5, 2, 30, 40.25))]]
    where = f"{root}/annotations.xml: image 1 (photos/b.png)"
    assert remarks == {"undrawn-image": [where], "unlabeled-image": ["b.png"]}
    looked_at, remarks = read(cvat(root, box.format("cat"), "", query="&empty=labeled"))
    assert not remarks
    assert [len(record["annotations"]) for record in looked_at] == [1, 0]


def test_subsets_of_cvat_count_together_and_are_named(root: Path) -> None:
    uri = cvat(root, *[GOOD.format(3)] * 2)
    path = root / "annotations.xml"
    text = path.read_text(encoding="utf-8")
    for names, said in (
        (("Train", "Test"), ["2 subsets: Train (1), Test (1)"]),
        (("Train", ""), ["2 subsets: Train (1), without a subset (1)"]),
        (("Train", "Train"), []),
    ):
        changed = text
        for number, name in enumerate(names):
            changed = changed.replace(f'id="{number}"', f'id="{number}" subset="{name}"')
        path.write_text(changed, encoding="utf-8")
        records, remarks = read(uri)
        assert len(records) == 2
        assert remarks.get("joined-subsets", []) == [f"{path}: {text}" for text in said]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ('<polygon label="cat" points="3,4;30.5,2;5,9"/>', (3, 2, 30.5, 9)),
        ('<ellipse label="cat" cx="40" cy="30" rx="10" ry="20"/>', DISK),
        ('<ellipse label="cat" cx="40" cy="30" rx="20" ry="10" rotation="90"/>', DISK),
        ('<mask label="cat" left="1" top="2" width="3" height="4" rle="12"/>', (1, 2, 4, 6)),
        # Turned about its center.
        ('<box label="cat" xtl="20" ytl="20" xbr="60" ybr="40" rotation="90"/>', DISK),
        ('<points label="cat" points="1,2"/>', None),
    ],
)
def test_cvat_shapes(root: Path, shape: str, box: tuple[float, ...] | None) -> None:
    whole = '<box label="dog" xtl="0" ytl="0" xbr="200" ybr="100"/>'
    records, remarks = read(cvat(root, whole + shape))
    found = [corners for label, corners in boxes_of(records)[0] if label == 1]
    assert found == ([pytest.approx(box)] if box else [])
    assert ("no-box" in remarks) == (box is None)


def test_the_points_of_a_cvat_skeleton_are_no_classes(root: Path) -> None:
    """They are inside of its shape, which has no box; a label of their name may be a class."""
    labels = (("person", ""), ("nose", "person"), ("dog", "person"), ("dog", ""))
    texts = [f"<label><name>{n}</name><parent>{p}</parent></label>" for n, p in labels]
    meta = f"<meta><task><labels>{''.join(texts)}</labels></task></meta>"
    nose = '<points label="nose" points="1,2"/>'
    shapes = f'<skeleton label="person">{nose}</skeleton>' + GOOD.format(3).replace("cat", "dog")
    uri = cvat(root, shapes, meta=meta)
    records, remarks = read(uri)
    assert class_names([uri]) == ["person", "dog"]
    assert boxes_of(records) == [[(1, (1, 2, 3, 4))]]
    assert len(remarks["no-box"]) == 1


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("rectangle", [[50, 10], [30, 50]], DISK),
        ("polygon", [[30, 10], [50, 20], [31, 50]], DISK),
        (None, [[30, 10], [50, 20], [31, 50]], DISK),
        ("circle", [[40, 30], [40, 40]], (30, 20, 50, 40)),
        ("mask", [[30, 10], [49, 49]], DISK),
        ("linestrip", [[30, 10], [49, 49]], None),
    ],
)
def test_labelme_shapes(
    root: Path, kind: str | None, points: list[list[float]], box: tuple[float, ...] | None
) -> None:
    whole = {"label": "dog", "points": [[0, 0], [200, 100]], "shape_type": "rectangle"}
    shape = {"label": "cat", "points": points, "shape_type": kind}
    records, remarks = read(labelme(root, whole, shape, imageWidth=200, imageHeight=100))
    assert [record["image_id"] for record in records] == ["a.png"]
    found = [corners for label, corners in boxes_of(records)[0] if corners[2] < 200]
    assert found == ([box] if box else [])
    assert ("no-box" in remarks) == (box is None)


def test_labelme_groups_the_parts_of_an_object(root: Path) -> None:
    """Of one label and one number; a number of another label or none is no group."""
    shapes: list[dict[str, Any]] = [
        {"label": label, "points": points, "shape_type": "polygon", "group_id": group}
        for label, points, group in (
            ("dog", [[10, 10], [20, 10], [20, 30]], 1),
            ("cat", [[1, 2], [3, 2], [3, 4]], 1),
            ("dog", [[60, 20], [80, 20], [80, 50]], 1),
            ("dog", [[100, 20], [110, 20], [110, 50]], None),
            ("dog", [[120, 20], [130, 20], [130, 50]], None),
        )
    ]
    records, _ = read(labelme(root, *shapes, imageWidth=200, imageHeight=100))
    dogs = [(1, box) for box in ((10, 10, 80, 50), (100, 20, 110, 50), (120, 20, 130, 50))]
    assert boxes_of(records) == [[dogs[0], (0, (1, 2, 3, 4)), *dogs[1:]]]


def test_labels_beside_images_are_of_no_image_in_a_subfolder(
    root: Path, write_image: Writer
) -> None:
    """Where the image of a file is gone, one of its name elsewhere is another."""
    labelme(root, {"label": "dog", "points": [[0, 0], [200, 100]], "shape_type": "rectangle"})
    text = (root / "labels" / "a.json").read_text()
    (root / "photos" / "b.json").write_text(text)
    (root / "photos" / "c.json").write_text(text)
    write_image(root / "photos" / "2023" / "c.png")
    records, remarks = read(f"labelme://{root}/photos")
    assert [record["image_id"] for record in records] == ["b.png"]
    assert remarks["labels-alone"] == [str(root / "photos" / "c.json")]


def test_labelme_saves_beside_its_images(root: Path) -> None:
    whole = {"label": "dog", "points": [[0, 0], [200, 100]], "shape_type": "rectangle"}
    labelme(root, whole)
    (root / "labels" / "a.json").rename(root / "photos" / "a.json")
    records, remarks = read(f"labelme://{root}/photos")
    assert [record["file_name"] for record in records] == [f"{root}/photos/a.png"]
    assert remarks == {"unlabeled-image": ["b.png"]}


@pytest.mark.parametrize("project", [True, False])
def test_via_classes(root: Path, project: bool) -> None:
    regions = [rect(kind="cat"), rect(kind={"dog": True, "cat": False})]
    uri = via(root, regions, [], project=project)
    records, remarks = read(uri)
    assert remarks["undrawn-image"] == [f"{root}/via.json: b.png"]
    assert class_names([uri]) == ["cat", "dog"]
    assert boxes_of(records) == [[(0, (1, 2, 31, 42)), (1, (1, 2, 31, 42))]]
    looked_at, remarks = read(via(root, regions, [], query="&empty=labeled"))
    assert not remarks
    assert [record["image_id"] for record in looked_at] == ["a.png", "b.png"]
    several = [rect(kind="cat", size="big")]
    with pytest.raises(SourceError, match="It has 'kind', 'size'; name it by attribute=NAME"):
        read(via(root, several))
    assert class_names([via(root, several, query="&attribute=size")]) == ["big"]
    with pytest.raises(SourceError, match="It has none; name the only class by classes=A"):
        read(via(root, [rect()]))
    assert len(read(via(root, [rect()], query="&classes=balloon"))[0][0]["annotations"]) == 1


def test_an_image_with_points_alone_is_unlabeled(root: Path) -> None:
    """Something is there, and nothing says where it ends."""
    shape = {"name": "point", "cx": 1, "cy": 2}
    point = {"shape_attributes": shape, "region_attributes": {"kind": "cat"}}
    points = '<points label="cat" points="1,2"/>'
    for write, good, bad in ((via, [rect(kind="cat")], [point]), (cvat, GOOD.format(3), points)):
        records, remarks = read(write(root, good, bad))
        assert [record["image_id"] for record in records] == ["a.png"]
        assert len(remarks["no-box"]) == 1
        assert len(read(write(root, good, bad, query="&empty=labeled"))[0]) == 2


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ({"name": "circle", "cx": 40, "cy": 30, "r": 10}, (30, 20, 50, 40)),
        ({"name": "ellipse", "cx": 40, "cy": 30, "rx": 20, "ry": 10, "theta": 1.5707963267}, DISK),
        ({"name": "polygon", "all_points_x": [30, 50], "all_points_y": [50, 10]}, DISK),
        ({"name": "point", "cx": 1, "cy": 2}, None),
    ],
)
def test_via_shapes(root: Path, shape: dict[str, Any], box: tuple[float, ...] | None) -> None:
    region = {"shape_attributes": shape, "region_attributes": {"kind": "cat"}}
    # Version 1 numbers the regions.
    numbered: Any = {"0": rect(kind="cat"), "1": region}
    records, remarks = read(via(root, numbered))
    assert [corners for _, corners in boxes_of(records)[0][1:]] == (
        [pytest.approx(box)] if box else []
    )
    assert ("no-box" in remarks) == (box is None)


ODD = {"shape_attributes": {"name": "star"}, "region_attributes": {"k": "a"}}
SHORT = {"label": "cat", "points": [[1, 2]], "shape_type": "rectangle"}
GOOD = '<box label="cat" xtl="1" ytl="2" xbr="{}" ybr="4"/>'


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda r: cvat(r), "is no export of CVAT for images, or has no image"),
        (lambda r: cvat(r, meta="<track/>"), "export it as CVAT for images, not for video"),
        (lambda r: cvat(r, ""), "none of its 1 images has a box; add empty=labeled"),
        (lambda r: cvat(r, GOOD.format("x")), r"a\.png\): xbr of <box> must be .* is 'x'"),
        (lambda r: cvat(r, GOOD.format("inf")), "must be a finite number, is 'inf'"),
        (lambda r: cvat(r, '<polygon label="cat" points="1,2;3"/>'), "needs points x,y;x,y"),
        (lambda r: cvat(r, GOOD.format(3).replace("cat", "cow")), "unknown class 'cow'; valid"),
        (lambda r: labelme(r, SHORT), "shape 0: needs 2 points"),
        (lambda r: labelme(r, SHORT | {"shape_type": "point"}, {"label": 3}), "shape 1: needs 3"),
        (lambda r: labelme(r, {"points": [[1, 2], [3, 4], [5, 0]]}), "an object needs a name"),
        (lambda r: labelme(r, shapes=3), "is no file of LabelMe"),
        (lambda r: labelme(r, shapes=[3]), "shape 0: must be an object"),
        (lambda r: via(r, [ODD]), "the shape .* is unknown"),
        (lambda r: via(r, [rect(k={"a": True, "b": True})]), "the classes 'a', 'b'; give it one"),
        (lambda r: via(r, [rect(k=3)]), "an object needs a name, has 3"),
        (lambda r: via(r, [3]), "a region must be an object"),
        (lambda r: via(r, []), "none of its 1 images has a region"),
        (lambda r: via(r), "is no JSON of the VGG Image Annotator"),
        (lambda r: via(r, [rect(k="a")], query="&empty=no"), "empty=no is unknown; valid: unl"),
    ],
)
def test_what_is_no_file_of_the_program_is_refused(
    root: Path, write: Callable[[Path], str], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        read(write(root))
