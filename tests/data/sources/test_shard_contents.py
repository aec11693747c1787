"""Tar files as a set: how patterns and names are read, and which JSON is a label."""

from __future__ import annotations

from pathlib import Path

import pytest

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import class_names, load_one_labeled, load_unlabeled
from dre_ssod.data.sources.opening import open_source
from dre_ssod.data.sources.shards import patterns
from dre_ssod.errors import SourceError
from tests.data.sources.test_shards import CELL, label, picture, shades, write_pool, write_tar


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("none-*.tar", "no file has a name of this pattern"),
        ("p-{00..07}.tar", r"no file .*p-03\.tar"),
        ("q-{00..07}.tar", r"no file .*q-00\.tar"),
        ("p-{7..2}.tar", r"\{7\.\.2\} must rise"),
        ("p-{a,b}.tar", "only ranges of numbers are read"),
        ("*/p-00.tar", "wildcards may stand in the last part of a path alone"),
        ("p-00.tar?split=train", "unknown key 'split'; valid: classes"),
        (".", "no file"),
    ],
)
def test_patterns_that_name_nothing(pattern: str, said: str, tmp_path: Path) -> None:
    write_pool(tmp_path)
    with pytest.raises(SourceError, match=said):
        load_unlabeled([f"shards://{tmp_path}/{pattern}"])


def test_ranges_are_as_wide_as_they_are_written(tmp_path: Path) -> None:
    uri = patterns.DatasetURI("x", "shards", "d{8..10}/p-{008..009}.tar", {})
    found = ["d8/p-008.tar", "d8/p-009.tar", "d9/p-008.tar"]
    assert patterns._expand(uri)[:3] == found
    assert len(patterns._expand(uri)) == 6


def test_names_are_taken_as_webdataset_does(tmp_path: Path) -> None:
    """A second picture of one name, or of a second dot, would be another thing in each program."""
    members = [("a.png", picture(1)), ("a.jpg", picture(2, "JPEG")), ("b.depth.png", picture(3))]
    write_tar(tmp_path / "a.tar", members)
    remarks = Remarks()
    assert shades(load_unlabeled([f"shards://{tmp_path}/a.tar"], remarks)) == [1]
    (twice,), (other,) = remarks.items["broken-shard"], remarks.items["other-picture"]
    assert "two images are called 'a': a.png and a.jpg" in twice
    assert "1 with several dots in the name, as 'b.depth.png'" in other
    write_tar(tmp_path / "b.tar", members[2:])
    with pytest.raises(SourceError, match=r"no image in 1 shard.*'b\.depth\.png'"):
        load_unlabeled([f"shards://{tmp_path}/b.tar"])


def test_of_two_json_files_of_an_image_the_first_counts(tmp_path: Path) -> None:
    """Which one is right nothing says, so no labeled set is read from them."""
    for second in ("a.json", "a.JSON"):
        labels = [("a.json", label(CELL)), (second, label({**CELL, "class": "dog"}))]
        write_tar(tmp_path / "a.tar", [("a.png", picture(1)), *labels])
        uri, remarks = f"shards://{tmp_path}/a.tar", Remarks()
        assert shades(load_unlabeled([uri], remarks)) == [1]
        said = f"two JSON files are called 'a': a.json and {second}; the first counts"
        assert remarks.items == {"broken-shard": [f"{tmp_path}/a.tar: {said}"]}
        with pytest.raises(SourceError, match=said):
            load_one_labeled(uri)


def test_hidden_files_and_folders_are_no_data(tmp_path: Path) -> None:
    """In a shard as in a folder; shards that are hidden, too, unless they are named."""
    copies = [".ipynb_checkpoints/a.png", "x/@eaDir/a.png", "__MACOSX/q.png", "._a.png"]
    members = [(name, picture(9)) for name in copies]
    members += [("./.cache/a.json", label(CELL)), (".h/b.gif", b"GIF89a"), (".h/.x", b"")]
    shown = [("./a.png", picture(1)), ("x/../b.png", picture(2))]
    write_tar(tmp_path / "x-0.tar", [*members, *shown])
    (tmp_path / "._x-0.tar").write_bytes(b"\0\5\x16\7" * 40)
    remarks = Remarks()
    assert shades(load_unlabeled([f"shards://{tmp_path}/*.tar"], remarks)) == [1, 2]
    said = f"4 hidden, or in a hidden folder, as {copies[0]!r}"
    assert remarks.items == {"hidden-file": [f"{tmp_path}/x-0.tar: {said}"]}
    write_tar(tmp_path / ".y.tar", members)
    with pytest.raises(SourceError, match=rf"no image in 1 shard.*\.y\.tar: {said}"):
        load_unlabeled([f"shards://{tmp_path}/.y.tar"])
    with pytest.raises(SourceError, match="no file has a name of this pattern"):
        load_unlabeled([f"shards://{tmp_path}/*y.tar"])


def test_json_beside_an_image_is_its_label(tmp_path: Path) -> None:
    """It may come first; an image without it is unlabeled, and one with an empty list is empty."""
    other = {"class": "a, b", "bbox": [0, 0, 2, 2], "iscrowd": 1, "difficult": 1, "area": 3}
    write_tar(
        tmp_path / "a.tar",
        [
            *(("x/1.json", label(CELL, other)), ("x/1.png", picture(1)), ("2.png", picture(2))),
            *(("3.png", picture(3)), ("3.json", label()), ("alone.json", b"no label")),
        ],
    )
    uri = f"shards://{tmp_path}/a.tar"
    remarks = Remarks()
    first, empty = load_one_labeled(uri, remarks)
    assert class_names([uri]) == ["a, b", "cell"]
    assert (first["image_id"], first["width"], first["height"]) == ("a.tar/x/1.png", 8, 6)
    assert [item["category_id"] for item in first["annotations"]] == [1, 0]
    assert first["annotations"][0]["bbox"] == [1, 2, 3, 4]
    assert {**other, "bbox_mode": 1, "category_id": 0} | first["annotations"][1] == (
        first["annotations"][1] | {"class": "a, b"}
    )
    assert empty["annotations"] == []
    assert remarks.items["unlabeled-image"] == ["a.tar/2.png"]
    assert len(load_unlabeled([uri])) == 3
    (tmp_path / "classes.txt").write_text("cell\na, b\n")
    assert open_source(uri).metadata()["thing_classes"] == ["cell", "a, b"]
    assert class_names([f"{uri}?classes=x,cell,a%2C b"]) == ["x", "cell", "a, b"]
    with pytest.raises(SourceError, match=r"a\.tar/x/1\.png: unknown class 'a, b'"):
        load_one_labeled(f"{uri}?classes=cell")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", r"a\.json: cannot be read as JSON"),
        (b"\xff", r"a\.json: cannot be read as JSON"),
        (b"[" * 100_000, r"a\.json: cannot be read as JSON: .*(recursion|Stack overflow)"),
        (b'{"caption": "a cell"}', r"a\.json: holds .*and not labels of the form"),
        (b'{"objects": [], "width": 8}', "needs a positive integer 'height', has None"),
        (label({"bbox": [1, 2, 3, 4]}), r"objects\[0\]: 'class' needs a name, has None"),
        (label(CELL, {"class": "cell", "bbox": [1, 2, 3]}), r"objects\[1\] needs 'bbox'"),
        (label(3), r"objects\[0\] must be an object, is 3"),
        (label(CELL | {"iscrowd": 2}), "needs 0 or 1 as 'iscrowd', has 2"),
        (label(CELL | {"area": "x"}), "needs a number as 'area', has 'x'"),
    ],
)
def test_json_that_is_no_label(content: bytes, said: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.png", picture(1)), ("a.json", content)])
    uri = f"shards://{tmp_path}/a.tar"
    with pytest.raises(SourceError, match=said):
        load_one_labeled(f"{uri}?classes=cell")
    assert len(load_unlabeled([uri])) == 1


def test_pictures_and_labels_that_are_passed_over_are_counted(tmp_path: Path) -> None:
    """Pictures in other formats, with their labels, as in a folder of a labeling program."""
    members = [(f"y{number}.gif", b"GIF89a") for number in range(5)]
    members += [(f"y{number}.json", label(CELL)) for number in range(5)]
    members += [("s/z.jfif", picture(4, "JPEG")), (".h.gif", b"hidden"), ("read.me", b"text")]
    write_tar(tmp_path / "a.tar", [("x.png", picture(1)), ("x.json", label(CELL)), *members])
    uri = f"shards://{tmp_path}/a.tar"
    pictures = [f"{tmp_path}/a.tar: 6 in a format that is not read, as 'y0.gif'"]
    labels = [f"{tmp_path}/a.tar: 5 without an image of that name, as 'y0.json'"]
    # The second time by the index.
    for _ in range(2):
        remarks = Remarks()
        assert len(load_unlabeled([uri], remarks)) == 1
        assert remarks.items == {"other-picture": pictures}
        remarks = Remarks()
        assert len(load_one_labeled(uri, remarks)) == 1
        assert remarks.items == {"other-picture": pictures, "labels-alone": labels}
    write_tar(tmp_path / "b.tar", members)
    with pytest.raises(SourceError, match=r"no image in 1 shard.*6 in a format that is not read"):
        load_unlabeled([f"shards://{tmp_path}/b.tar"])


def test_a_labeled_set_has_labels_and_whole_shards(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("a.png", picture(1))])
    uri = f"shards://{tmp_path}/a.tar"
    assert open_source(uri).metadata() == {}
    with pytest.raises(SourceError, match="no image has a JSON file beside it"):
        load_one_labeled(uri)
    write_tar(shard, [("a.png", picture(1)), ("a.json", label(CELL)), ("b.png", picture(2))])
    shard.write_bytes(shard.read_bytes()[: 512 * 5])
    with pytest.raises(SourceError, match=r"of a labeled set cannot be used, the first: .*a\.tar"):
        load_one_labeled(f"{uri}?classes=cell")
