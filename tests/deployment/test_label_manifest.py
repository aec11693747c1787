"""The list of images on disk: the order of ``list_images``, chunk by chunk."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from dre_ssod.data.sources.folder import list_images
from dre_ssod.deployment.labeling.label_manifest import (
    Entry,
    ImageList,
    Manifest,
    open_images,
)
from dre_ssod.errors import SourceError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    names = [
        "b.png",
        "a/z.JPG",
        "a-b/1.png",
        "a/é 1.webp",
        "c/d/e.tif",
        "c.txt",
        ".x.png",
        "c/.y/1.bmp",
    ]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "c" / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "a")
    return root


def test_a_folder_is_listed_as_datasets_list_it(folder: Path) -> None:
    expected = list_images(folder)
    for source in (str(folder), f"folder://{folder}"):
        images = open_images(source)
        entries = list(images.entries)
        assert images.root == str(folder)
        assert [entry.file_name for entry in entries] == expected
        assert [entry.image_id for entry in entries] == list(range(1, len(expected) + 1))


def test_a_coco_file_keeps_its_ids_and_names(tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 42, "file_name": "sub/x.png", "height": 2, "width": 2},
            {"id": 7, "file_name": "y.png", "height": 2, "width": 2},
        ],
        "annotations": [],
        "categories": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    images = open_images(f"coco://{tmp_path}/a.json?images={tmp_path}")
    assert images.root == str(tmp_path)
    assert list(images.entries) == [Entry(7, "y.png"), Entry(42, "sub/x.png")]


def write_program_files(root: Path) -> None:
    for name in ("photos/a/1.png", "photos/2.png", "voc/JPEGImages/3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "voc/ImageSets/Main").mkdir(parents=True)
    (root / "voc/Annotations").mkdir()
    (root / "voc/ImageSets/Main/train.txt").write_text("3\n")
    (root / "export.json").write_text("[]")


@pytest.mark.parametrize(
    ("source", "root", "names"),
    [
        ("labelstudio://{}/export.json?images={}/photos", "photos", ["2.png", "a/1.png"]),
        ("cvat://{}/export.json?images={}/photos/a", "photos/a", ["1.png"]),
        ("voc://{}/voc?split=train", "voc/JPEGImages", ["3.png"]),
    ],
)
def test_images_of_other_sources_are_named_below_their_folder(
    tmp_path: Path, source: str, root: str, names: list[str]
) -> None:
    """As programs show and upload them."""
    write_program_files(tmp_path)
    images = open_images(source.replace("{}", str(tmp_path)))
    assert images.root == str(tmp_path / root)
    assert [entry.file_name for entry in images.entries] == sorted(names)


def test_a_coco_file_whose_names_leave_its_folder_has_a_higher_one(tmp_path: Path) -> None:
    names = ["in/x.png", "../other/y.png"]
    entries = [
        {"id": n, "file_name": name, "height": 2, "width": 2} for n, name in enumerate(names)
    ]
    content = {"images": entries, "annotations": [], "categories": []}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "photos").mkdir()
    images = open_images(f"coco://{tmp_path}/a.json?images={tmp_path}/photos&outside=allow")
    assert images.root == str(tmp_path)
    assert list(images.entries) == [Entry(0, "photos/in/x.png"), Entry(1, "other/y.png")]


def test_what_is_in_a_store_is_named_below_the_folder_of_its_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DRE_SSOD_CACHE", str(tmp_path))
    (tmp_path / "export.json").write_text("[]")
    system = fsspec.filesystem("memory")
    system.pipe("/set/photos/a/1.png", b"")
    system.pipe("/set/export.json", b"[]")
    try:
        images = open_images("labelstudio://memory://set/export.json?images=memory://set/photos")
        assert images.root == "memory://set/photos"
        assert list(images.entries) == [Entry(1, "a/1.png")]
    finally:
        system.rm("/set", recursive=True)


def test_what_holds_no_image_is_refused(tmp_path: Path) -> None:
    for source in (str(tmp_path), f"folder://{tmp_path}"):
        with pytest.raises(SourceError, match="no image"):
            open_images(source)
    with pytest.raises(SourceError, match="no such folder"):
        open_images(str(tmp_path / "missing"))
    with pytest.raises(SourceError, match="not a dataset"):
        open_images("misspelt")


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (1, 3), (2, 1)])
def test_chunks_are_the_list_in_order(tmp_path: Path, count: int, size: int) -> None:
    entries = [Entry(n, f"é {n}.png") for n in range(count)]
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest.write(path, ImageList("/photos", iter(entries)), size)
    again = Manifest.from_dict(path, json.loads(json.dumps(manifest.as_dict())))
    assert again == manifest
    assert manifest.images == count
    chunks = [again.chunk(number) for number in range(len(again.offsets))]
    assert [entry for chunk in chunks for entry in chunk] == entries
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert again.full_name(entries[0]) == "/photos/é 0.png"
