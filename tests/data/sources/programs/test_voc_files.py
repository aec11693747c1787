"""XML files without splits, of a part of the images: beside them, or in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import class_names, load_one_labeled, load_unlabeled
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.errors import SourceError
from tests.data.written_sets import boxes_of

Writer = Callable[..., Path]

SIZE = "<size><width>8</width><height>6</height></size>"


def write_xml(path: Path, *objects: tuple[str, tuple[float, ...]], size: str = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in objects
    )
    path.write_text(f"<annotation>{size}{body}</annotation>", encoding="utf-8")


def write_images(folder: Path, write_image: Writer, names: Iterable[str]) -> None:
    for name in names:
        write_image(folder / f"{name}.png")


@pytest.mark.parametrize("where", ["annots", "photos"])
def test_images_without_a_file_are_unlabeled(
    tmp_path: Path, write_image: Writer, where: str
) -> None:
    write_images(tmp_path / "photos", write_image, ["a", "b", "sub/c", "sub/d"])
    write_xml(tmp_path / where / "b.xml", ("dog", (1, 1, 8, 6)), ("cat", (2, 3, 5, 6)))
    write_xml(tmp_path / where / "sub" / "d.xml")
    uri = f"voc://{tmp_path}/photos" + ("?annotations=" + f"{tmp_path}/annots") * (
        where == "annots"
    )
    remarks = Remarks()
    records = load_one_labeled(uri, remarks)
    assert [record["image_id"] for record in records] == ["b.png", "sub/d.png"]
    assert boxes_of(records) == [[(1, (0, 0, 8, 6)), (0, (1, 2, 5, 6))], []]
    assert [(record["width"], record["height"]) for record in records] == [(8, 6)] * 2
    assert class_names([uri]) == ["cat", "dog"]
    assert remarks.items == {"unlabeled-image": ["a.png", "sub/c.png"]}
    everything = ["a.png", "b.png", "sub/c.png", "sub/d.png"]
    assert [record["image_id"] for record in load_unlabeled([uri])] == everything


def test_the_pool_is_what_is_neither_labeled_nor_tested_on(
    tmp_path: Path, write_image: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "photos", write_image, "abcdef")
    write_xml(tmp_path / "annots" / "b.xml", ("dog", (1, 1, 8, 6)))
    write_xml(tmp_path / "tests" / "d.xml", ("dog", (1, 1, 8, 6)))
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "x.png").symlink_to(tmp_path / "photos" / "b.png")
    write_image(tmp_path / "copy" / "y.png")
    train, test = (
        f"voc://{tmp_path}/photos?annotations={tmp_path}/{n}" for n in ("annots", "tests")
    )
    with caplog.at_level("INFO", "dre_ssod"):
        more = [f"folder://{tmp_path}/linked", f"folder://{tmp_path}/copy"]
        pools = build_pools([train], more, test=[test])
    assert [record["image_id"] for record in pools.labeled] == ["b.png"]
    names = ["a.png", "c.png", "e.png", "f.png", "y.png"]
    assert [record["image_id"] for record in pools.unlabeled] == names
    assert pools.sets[1:] == (("unlabeled", more[0], 4), ("unlabeled", more[1], 1))
    assert "linked: 2 images left out that are labeled or tested on" in caplog.text
    kept = build_pools([train], [train], test=[test], overlap=True)
    assert [record["image_id"] for record in kept.unlabeled] == [f"{n}.png" for n in "abcef"]


def test_a_pool_of_known_images_is_refused(tmp_path: Path, write_image: Writer) -> None:
    write_images(tmp_path, write_image, "a")
    write_xml(tmp_path / "a.xml", ("dog", (1, 1, 8, 6)))
    with pytest.raises(
        SourceError, match=r"folder://.*: all of its 1 images are in DATASETS\.TRAIN"
    ):
        build_pools([f"voc://{tmp_path}"], [f"folder://{tmp_path}"])


def test_corners_of_programs_that_count_from_zero(tmp_path: Path, write_image: Writer) -> None:
    write_images(tmp_path, write_image, "a")
    write_xml(tmp_path / "a.xml", ("dog", (0, 1, 8, 6)))
    remarks = Remarks()
    [[(_, box)]] = boxes_of(load_one_labeled(f"voc://{tmp_path}?first_pixel=0", remarks))
    assert box == (0, 1, 8, 6)
    assert not remarks.items
    # Counted from 1, a corner at 0 says that the program does not.
    load_one_labeled(f"voc://{tmp_path}", remarks)
    assert remarks.items == {"zero-corner": [f"{tmp_path}/a.xml: 0, 1"]}
    with pytest.raises(SourceError, match=r"first_pixel=2 is unknown; valid: 1, 0"):
        load_one_labeled(f"voc://{tmp_path}?first_pixel=2")


def test_an_image_that_exif_turns_is_named_where_its_size_is_read(
    tmp_path: Path, write_image: Writer
) -> None:
    write_images(tmp_path, write_image, ["a", "b"])
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, size in (("a", ""), ("b", SIZE)):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.png", exif=exif)
        write_xml(tmp_path / f"{name}.xml", ("dog", (1, 1, 6, 6)), size=size)
    remarks = Remarks()
    records = load_one_labeled(f"voc://{tmp_path}", remarks)
    assert [(record["width"], record["height"]) for record in records] == [(6, 8), (8, 6)]
    assert remarks.items == {"exif-rotation": [f"{tmp_path}/a.png: orientation 6"]}


def test_a_label_map_gives_the_classes_in_its_order(tmp_path: Path, write_image: Writer) -> None:
    write_images(tmp_path, write_image, "a")
    write_xml(tmp_path / "a.xml", ("cat", (1, 1, 8, 6)))
    label_map = tmp_path / "labelmap.txt"
    label_map.write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:::\ncat:::\n")
    uri = f"voc://{tmp_path}"
    assert class_names([uri]) == ["dog", "cat"]
    assert load_one_labeled(uri)[0]["annotations"][0]["category_id"] == 1
    label_map.write_text("dog:::\ndog:::\n")
    with pytest.raises(SourceError, match=r"labelmap\.txt: the class 'dog' is given twice"):
        load_one_labeled(uri)


def test_labels_and_images_that_do_not_meet(tmp_path: Path, write_image: Writer) -> None:
    uri = f"voc://{tmp_path}/photos?annotations={tmp_path}/annots"
    write_images(tmp_path / "photos", write_image, ["s/a", "t/b"])
    (tmp_path / "annots").mkdir()
    with pytest.raises(SourceError, match=r"annots: there is no XML file here or below; name the"):
        load_one_labeled(uri)
    write_xml(tmp_path / "annots" / "gone.xml")
    with pytest.raises(SourceError, match=r"of 1 images, none of which is in .*photos; the first"):
        load_one_labeled(uri)
    # A flat folder of labels, images in subfolders.
    write_xml(tmp_path / "annots" / "a.xml", ("dog", (1, 1, 8, 6)), size="")
    remarks = Remarks()
    [record] = load_one_labeled(uri, remarks)
    assert (record["image_id"], record["width"], record["height"]) == ("s/a.png", 8, 6)
    assert remarks.items["labels-alone"] == [str(tmp_path / "annots" / "gone.xml")]
    write_images(tmp_path / "photos", write_image, ["t/a"])
    with pytest.raises(SourceError, match=r"'a\.xml' can be s/a\.png and t/a\.png; rename one"):
        load_one_labeled(uri)
    # With a subfolder of labels a file is of the image in its own place alone.
    write_xml(tmp_path / "annots" / "t" / "b.xml")
    (tmp_path / "photos" / "t" / "a.png").unlink()
    remarks = Remarks()
    assert [record["image_id"] for record in load_one_labeled(uri, remarks)] == ["t/b.png"]
    lost = [str(tmp_path / "annots" / name) for name in ("a.xml", "gone.xml")]
    assert remarks.items["labels-alone"] == lost
    write_xml(tmp_path / "annots" / "t" / "b.XML")
    with pytest.raises(SourceError, match=r"b\.xml: t/b\.png has labels in .* as well; remove"):
        load_one_labeled(uri)


def test_a_class_that_is_not_named_is_refused(tmp_path: Path, write_image: Writer) -> None:
    write_images(tmp_path, write_image, "a")
    write_xml(tmp_path / "a.xml", ("cat", (1, 1, 8, 6)))
    with pytest.raises(SourceError, match=r"a\.xml: unknown class 'cat'; valid: 'dog'"):
        load_one_labeled(f"voc://{tmp_path}?classes=dog")


def test_a_folder_with_splits_still_needs_the_split(tmp_path: Path, write_voc: Writer) -> None:
    root = write_voc(tmp_path, {"a": []})
    with pytest.raises(SourceError, match="the key 'split' is missing"):
        load_one_labeled(f"voc://{root}")
