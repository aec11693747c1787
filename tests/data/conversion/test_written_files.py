"""Where the files of a conversion go, and what keeps them from being written."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from dre_ssod.data.conversion.convert import convert
from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.errors import ConfigError, FileError, SourceError
from tests.data.conversion.conftest import Writer


def test_images_are_copied_linked_or_left(voc: str, tmp_path: Path) -> None:
    sources = [Path(record["file_name"]) for record in load_one_labeled(voc)]
    for images in ("copy", "link", "reference"):
        [result] = convert({"train": voc}, "coco", tmp_path / images, images)
        files = [Path(record["file_name"]) for record in load_one_labeled(result.uri)]
        assert [path.is_symlink() for path in files] == [images == "link"] * 6
        assert [path.resolve() == own for path, own in zip(files, sources, strict=True)] == [
            images != "copy"
        ] * 6
        assert (tmp_path / images / "images").exists() == (images != "reference")


@pytest.mark.parametrize("function", ["shutil.copyfile", "pathlib.Path.write_text"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_is_not_written_to_its_end_is_not_there(
    voc: str,
    tmp_path: Path,
    form: str,
    function: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(function, Mock(side_effect=error))
        with pytest.raises((KeyboardInterrupt, FileError)) as caught:
            convert({"train": voc}, form, tmp_path / "new")
    if isinstance(error, OSError):
        assert "new cannot be written: No space left on device" in str(caught.value)
    assert set(tmp_path.iterdir()) == before
    # The same again.
    [result] = convert({"train": voc}, form, tmp_path / "new")
    assert len(load_one_labeled(result.uri)) == 6


def test_a_folder_with_anything_in_it_is_left_alone(voc: str, tmp_path: Path, form: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").touch()
    with pytest.raises(ConfigError, match="new exists and is not empty; choose another folder"):
        convert({"train": voc}, form, tmp_path / "new")
    with pytest.raises(ConfigError, match="mine exists and is not empty"):
        convert({"train": voc}, form, tmp_path / "new" / "mine")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("form", "images", "message"),
    [
        ("pascal", "copy", "unknown form 'pascal'; valid: coco, yolo, voc"),
        ("coco", "move", "images must be one of copy, link, reference, is 'move'"),
        ("yolo", "reference", "yolo looks for images in its own folders: choose copy or link"),
        ("voc", "reference", "choose copy or link"),
    ],
)
def test_impossible_wishes_are_refused(
    voc: str, tmp_path: Path, form: str, images: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        convert({"train": voc}, form, tmp_path / "new", images)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("form", "classes", "file_name", "message"),
    [
        ("coco", {1: "cat"}, "absent.png", r"the image .*absent\.png is missing"),
        ("yolo", {1: "cat"}, "small.png", "the image is 8 x 6 pixels, .* says 32 x 24"),
        ("yolo", {1: "cat"}, "odd.gif", "do not take this extension"),
        ("voc", {1: "cat"}, "odd.gif", "do not take this extension"),
        ("voc", {1: " cat"}, "small.png", "the class ' cat' cannot be written as VOC: rename it"),
        ("voc", {1: "c\ufffet"}, "small.png", "cannot be written as VOC"),
        ("voc", {1: "cat"}, "two\nlines.png", "VOC cannot hold this name: rename it"),
        ("voc", {1: "cat"}, " space.png", "VOC cannot hold this name: rename it"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    tmp_path: Path,
    write_image: Writer,
    write_coco: Writer,
    form: str,
    classes: dict[int, str],
    file_name: str,
    message: str,
) -> None:
    if file_name != "absent.png":
        write_image(tmp_path / file_name)
    images = [{"id": 1, "file_name": file_name, "width": 32, "height": 24}]
    boxes = {1: [(1, (0, 0, 4, 4))]}
    path = write_coco(tmp_path / "a.json", boxes, classes, replaced={"images": images})
    with pytest.raises(SourceError, match=message):
        convert({"train": f"coco://{path}?images={tmp_path}"}, form, tmp_path / "new")
    assert not (tmp_path / "new").exists()
