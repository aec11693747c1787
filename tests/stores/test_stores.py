"""Stores: what is read, what is kept, what is said, and what no file may reach."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from detectron2.utils.file_io import Detectron2Handler, PathManager
from iopath.common.file_io import HTTPURLHandler

from dre_ssod.errors import ConfigError, SourceError
from dre_ssod.stores import (
    StoreError,
    StorePath,
    is_address,
    local_copy,
    objects,
    open_copy,
    place_of,
)
from dre_ssod.stores.cache import IN_USE_S, Cache
from dre_ssod.stores.handler import ModelZooHandler

PHOTO = "memory://photos/a.bin"


@pytest.fixture(autouse=True)
def photo() -> Any:
    system = fsspec.filesystem("memory")
    system.pipe("/photos/a.bin", b"first")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def age(seconds: float, path: str | Path) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize("text", ["s3://b/k", "gs://b", "https://h/x", "zip://a::s3://b/c.zip"])
def test_addresses(text: str) -> None:
    assert is_address(text)
    assert str(place_of(text)) == text


@pytest.mark.parametrize("text", ["coco://a.json", "/data/s3://b", "a.jpg", "file:///etc/passwd"])
def test_no_addresses(text: str) -> None:
    assert not is_address(text)


def test_paths_in_an_archive_keep_its_address() -> None:
    path = StorePath.parse("zip://photos::s3://b/c.zip") / "x/a.tar.jpg"
    assert str(path) == "zip://photos/x/a.tar.jpg::s3://b/c.zip"
    assert str(path.top) == "zip://::s3://b/c.zip"
    assert (path.name, path.stem, path.suffix) == ("a.tar.jpg", "a.tar", ".jpg")
    with pytest.raises(StoreError, match="'::' in it"):
        path / "a::s3://other/b.zip"


def test_a_copy_follows_its_object(photo: Any) -> None:
    first = local_copy(PHOTO)
    assert Path(first).read_bytes() == b"first"
    assert local_copy(PHOTO) == first
    assert first.endswith(".a.bin")
    photo.pipe("/photos/a.bin", b"another")
    assert Path(local_copy(PHOTO)).read_bytes() == b"another"


def test_a_picture_is_not_asked_about_again(
    photo: Any, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    with open_copy(PHOTO) as file:
        assert file.read() == b"first"
    photo.pipe("/photos/a.bin", b"another")
    with open_copy(PHOTO) as file:
        assert file.read() == b"first"
    for copy in cache_folder.glob("*/*/*.bin"):
        age(90_000, copy)
    with open_copy(PHOTO) as file:
        assert file.read() == b"another"


def test_a_copy_that_was_cut_is_fetched_again() -> None:
    path = Path(local_copy(PHOTO))
    path.write_bytes(b"fi")
    with open_copy(PHOTO) as file:
        assert file.read() == b"first"


def test_the_cache_keeps_to_its_bound(
    photo: Any, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    for number in range(4):
        photo.pipe(f"/photos/{number}.bin", bytes(1000))
        age(2 * IN_USE_S - number, local_copy(f"memory://photos/{number}.bin"))
    Cache(cache_folder, 2500).clear()
    left = sorted(path.name[-5:] for path in cache_folder.glob("*/*/*.bin"))
    assert left == ["2.bin", "3.bin"]
    monkeypatch.setenv("DRE_SSOD_CACHE_GIB", str(1500 / 2**30))
    local_copy("memory://photos/0.bin")
    # The others are older, but this one is in use.
    assert [path.name[-5:] for path in cache_folder.glob("*/*/*.bin")] == ["0.bin"]


@pytest.mark.parametrize("bound", ["0", "much", "inf", "-1"])
def test_a_bound_that_is_none(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRE_SSOD_CACHE_GIB", bound)
    with pytest.raises(ConfigError, match=f"DRE_SSOD_CACHE_GIB is '{bound}'"):
        local_copy(PHOTO)


def failing(error: Exception, times: int, then: Any = 7) -> tuple[Callable[..., Any], list[int]]:
    calls: list[int] = []

    def question(system: Any, path: str) -> Any:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return then

    return question, calls


def test_a_store_is_asked_again() -> None:
    question, calls = failing(ConnectionResetError("reset"), 2)
    assert objects.ask(PHOTO, question) == 7
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("error", "tries", "message"),
    [
        (ConnectionResetError("reset"), objects.TRIES, "no answer in 4 tries.*reset"),
        (PermissionError("denied"), 1, "access is refused.*AWS_PROFILE"),
        (ImportError("install gcsfs"), 1, "package is missing: install gcsfs.*dre_ssod.stores"),
    ],
)
def test_what_is_missing_is_said(error: Exception, tries: int, message: str) -> None:
    question, calls = failing(error, 99)
    with pytest.raises(StoreError, match=rf"^{PHOTO}: .*{message}"):
        objects.ask(PHOTO, question)
    assert len(calls) == tries


def test_a_full_disk_is_not_the_fault_of_the_store() -> None:
    question, calls = failing(OSError(28, "No space left on device"), 99)
    with pytest.raises(OSError, match="No space left"):
        objects.ask(PHOTO, question)
    assert len(calls) == 1


def test_an_object_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"memory://photos/none"):
        local_copy("memory://photos/none")
    with pytest.raises(IsADirectoryError):
        local_copy("memory://photos")


def test_an_archive_in_a_store(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photos/x/a.jpg", b"picture")
    folder = StorePath.parse(f"zip://photos::{tmp_path}/a.zip")
    assert folder.is_dir()
    assert list(folder.names()) == ["x/a.jpg"]
    with open_copy(str(folder / "x/a.jpg")) as file:
        assert file.read() == b"picture"


@pytest.mark.parametrize(
    "mark",
    [
        *("ETag", "mtime", "CRC", "Last-Modified", "created", "blob_id", "xet_hash", "sha", "hex"),
        *("modificationTime", "modify", "last_modified"),
    ],
)
def test_contents_of_equal_size_are_told_apart_in_the_words_of_their_store(mark: str) -> None:
    size = {"name": "a.json", "size": 5, "type": "file"}
    assert not objects.has_identity({**size, mark: None})
    contents = [{**size, mark: value} for value in ("one", "other")]
    assert all(map(objects.has_identity, contents))
    assert len(set(map(objects.identity, contents))) == 2


def test_the_model_zoos_stay_in_the_cache_of_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        ModelZooHandler, "_get_local_path", lambda self, path, **_: asked.append(path)
    )
    assert issubclass(ModelZooHandler, HTTPURLHandler)
    PathManager.get_local_path("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    assert asked == [f"{Detectron2Handler.S3_DETECTRON2_PREFIX}ImageNetPretrained/MSRA/R-50.pkl"]


def test_detectron2_reads_stores() -> None:
    with PathManager.open(PHOTO, "rb") as file:
        assert file.read() == b"first"
    assert PathManager.isfile(PHOTO)
    assert PathManager.isdir("memory://photos")
    assert PathManager.exists(PHOTO)
    assert PathManager.ls("memory://photos") == ["a.bin"]
    with pytest.raises(StoreError, match="only read"):
        PathManager.open(PHOTO, "wb")


def test_s3_is_listed_in_pages(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"x/{number}.jpg" for number in range(5)]
    for name in names:
        bucket.pipe(f"data/photos/{name}", b"picture")
    bucket.pipe("data/photos_2/other.jpg", b"picture")
    asked: list[str] = []
    call = type(bucket).call_s3

    def small_pages(self: Any, method: str, **request: Any) -> Any:
        asked.append(method)
        return call(self, method, **request, MaxKeys=2)

    monkeypatch.setattr(type(bucket), "call_s3", small_pages)
    found = StorePath.parse("s3://data/photos").names()
    assert next(found) == names[0]
    assert len(asked) == 1
    assert list(found) == names[1:]
    assert len(asked) == 3


def test_a_missing_object_of_s3(bucket: Any) -> None:
    with pytest.raises(FileNotFoundError, match="s3://data/none"):
        local_copy("s3://data/none")
    with pytest.raises(FileNotFoundError, match="s3://nobody/none"):
        local_copy("s3://nobody/none")


@pytest.mark.parametrize("name", ["../../other/a.jpg", "/etc/passwd", "a.jpg::s3://other/b.zip"])
def test_a_set_in_a_bucket_cannot_name_anything_else(bucket: Any, name: str) -> None:
    from dre_ssod.data.sources.catalog import load_one_labeled

    content = {
        "images": [{"id": 1, "file_name": name, "width": 4, "height": 4}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cell"}],
    }
    bucket.pipe("data/set.json", json.dumps(content).encode())
    bucket.pipe("data/photos/a.jpg", b"picture")
    for allowed in ("", "&outside=allow"):
        with pytest.raises(SourceError, match=r"s3://data/set\.json: "):
            load_one_labeled(f"coco://s3://data/set.json?images=s3://data/photos{allowed}")


@pytest.mark.parametrize(
    "name", ["s3://other/a.jpg::x", "../../other/a.jpg", "/etc/passwd", "/data/other.jpg"]
)
@pytest.mark.parametrize("outside", [False, True])
def test_names_in_files_stay_in_their_bucket(name: str, outside: bool) -> None:
    from dre_ssod.data.sources.uri import join_inside

    folder = StorePath.parse("s3://data/photos")
    if outside and name == "/data/other.jpg":
        assert str(join_inside(folder, name, None, "here")) == "s3://data/other.jpg"
        return
    with pytest.raises(SourceError, match="here: "):
        join_inside(folder, name, None if outside else folder, "here")


def test_an_address_in_a_file_is_a_name_like_others() -> None:
    from dre_ssod.data.sources.uri import join_inside

    folder = StorePath.parse("s3://data/photos")
    path = join_inside(folder, "s3://other/a.jpg", folder, "here")
    assert path.is_relative_to(folder)  # type: ignore[arg-type]
