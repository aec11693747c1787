from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import IMAGE_EXTENSIONS, FolderSource, is_image_name, list_images
from dre_ssod.errors import SourceError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_every_extension_in_any_case_and_no_hidden_file() -> None:
    for extension in IMAGE_EXTENSIONS:
        assert is_image_name(f"a{extension}")
        assert is_image_name(f"a{extension.upper()}")
    assert not is_image_name("._a.jpg")
    assert not is_image_name("a.jpg.txt")
    assert not is_image_name("jpg")


def test_images_are_found_recursively_in_an_order_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.PNG", "b/10.jpg", "a.webp", "b-c/1.bmp", "b/d/e/1.tiff", "note.txt")
    assert list_images(tmp_path) == ["a.webp", "b/10.jpg", "b/2.PNG", "b/d/e/1.tiff", "b-c/1.bmp"]


@given(names=st.lists(st.text("ab-é\n/", min_size=1, max_size=6), unique=True, max_size=40))
@settings(max_examples=60, deadline=None)
def test_names_are_sorted_by_the_parts_of_their_paths(names: list[str]) -> None:
    paths = {(Path(name.strip("/")) / "x.png").as_posix() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            touch(Path(folder), path)
        found = list_images(Path(folder))
    assert found == sorted(found, key=lambda name: name.split("/"))
    assert set(found) == paths


def test_what_systems_leave_beside_the_data_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", ".hidden.png", ".ipynb_checkpoints/a-checkpoint.jpg")
    touch(tmp_path, "b/__MACOSX/._a.jpg", "__MACOSX/b.jpg", "@eaDir/a.jpg/thumb.jpg")
    remarks = Remarks()
    assert list_images(tmp_path, remarks) == list_images(tmp_path) == ["a.jpg"]
    hidden = ("._a.jpg", ".hidden.png", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "b/__MACOSX")
    assert remarks.items == {"hidden-file": [f"{tmp_path}/{name}" for name in hidden]}
    # The folder that the user names is data, whatever its name.
    assert list_images(tmp_path / ".ipynb_checkpoints") == ["a-checkpoint.jpg"]


def test_pictures_of_other_formats_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jfif", "c/d.HEIC", ".e.heic", "note.txt", "f.mpo")
    remarks = Remarks()
    records = FolderSource("folder://images", tmp_path).images(remarks)
    assert [record["image_id"] for record in records] == ["a.jpg"]
    names = ("b.jfif", "f.mpo", "c/d.HEIC")
    assert remarks.items == {"other-picture": [str(tmp_path / name) for name in names]}
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(SourceError, match=r"passed over: 1 \.jfif, 1 \.mpo, 1 \.heic$"):
        FolderSource("folder://images", tmp_path).images(Remarks())


def test_links_are_followed_and_cycles_end(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "images/2.jpg")
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "cycle").symlink_to(tmp_path / "images")
    assert list_images(tmp_path / "images") == ["2.jpg", "linked/1.jpg"]


def test_records_hold_names_and_relative_ids_only(
    tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    image = write_image(tmp_path / "x" / "1.png")
    source = FolderSource("folder://images", tmp_path)
    assert source.images(Remarks()) == [{"file_name": str(image), "image_id": "x/1.png"}]
    assert source.metadata() == {}


def test_an_empty_folder_and_a_use_as_labeled_data_are_errors(tmp_path: Path) -> None:
    source = FolderSource("folder://images", tmp_path)
    with pytest.raises(SourceError, match=r"no image in .* extensions taken: \.jpg"):
        source.images(Remarks())
    with pytest.raises(SourceError, match=r"no labels; name it in DATASETS\.UNLABELED"):
        source.labeled(Remarks())


def test_folders_that_cannot_be_listed_and_names_that_are_not_unicode_are_errors(
    tmp_path: Path,
) -> None:
    with pytest.raises(SourceError, match="nowhere: the folder cannot be listed: No such file"):
        list_images(tmp_path / "nowhere")
    (tmp_path / os.fsdecode(b"a\xff.jpg")).touch()
    with pytest.raises(SourceError, match=r"a\\udcff\.jpg' is not UTF-8; rename the file"):
        list_images(tmp_path)
