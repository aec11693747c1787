"""Shards in a bucket: read by ranges, indexed in the cache, their images kept one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from dre_ssod.data.images import read_image
from dre_ssod.data.sources.catalog import load_one_labeled, load_unlabeled
from dre_ssod.data.sources.shards import ShardRecords
from dre_ssod.errors import SourceError
from dre_ssod.stores import Cache, StoreError
from tests.data.sources.test_shards import CELL, label, picture, shades, write_tar
from tests.stores.test_stores import age
from tests.tiny_dataset import write_tiny_dataset
from tools import pack_images

PATTERN = "shards://s3://data/packed/t-{000000..000002}.tar"


@pytest.fixture
def packed(tmp_path: Path, bucket: Any) -> Path:
    """The labeled images of the tiny set in three shards, here and in the bucket."""
    data = write_tiny_dataset(tmp_path / "data")
    words = [data.labeled, "--labels", "--output", str(tmp_path / "packed"), "--name", "t"]
    assert pack_images.run([*words, "--images", "3"]) == 0
    bucket.put(f"{tmp_path / 'packed'}/", "data/packed/", recursive=True)
    return tmp_path / "packed"


def test_they_are_those_of_the_disk(
    packed: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = load_one_labeled(f"shards://{packed}/t-*.tar")
    remote = load_one_labeled(PATTERN)
    assert [r["image_id"] for r in remote] == [r["image_id"] for r in local]
    assert [r["annotations"] for r in remote] == [r["annotations"] for r in local]
    assert remote[0]["file_name"].startswith("shards://s3://data/packed/t-000000.tar:")
    for one, other in zip(local, remote, strict=True):
        pixels = read_image(one["file_name"], "RGB")
        assert (read_image(other["file_name"], "RGB") == pixels).all()
    assert len(list((cache_folder / "shards").glob("*.index"))) == 1
    pools = [load_unlabeled([uri]) for uri in (f"shards://{packed}/t-*.tar", PATTERN)]
    assert all(isinstance(pool, ShardRecords) for pool in pools)
    assert pools[0].digests() == pools[1].digests()  # type: ignore[attr-defined]
    # What was read is there, although the store is gone.

    def refuse(address: str, *_: Any) -> Any:
        raise StoreError(f"{address}: no answer")

    monkeypatch.setattr("dre_ssod.stores.cache.read_range", refuse)
    assert (read_image(remote[0]["file_name"], "RGB") >= 0).all()
    with pytest.raises(StoreError, match="no answer"):
        read_image(remote[0]["file_name"].replace("+", "+1"), "RGB")


def test_only_what_is_asked_for_is_fetched(
    packed: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a shard that was cut there, and of one that changes."""
    content = (packed / "t-000000.tar").read_bytes()
    bucket.pipe("data/packed/t-000001.tar", content[: len(content) // 2])
    records = load_unlabeled([PATTERN.replace("000002", "000001")])
    assert isinstance(records, ShardRecords)
    assert 0 < records.lost < 0.5
    bucket.pipe("data/packed/t-000001.tar", content)
    whole = load_unlabeled([PATTERN.replace("000002", "000001")])
    assert len(whole) == 6 > len(records)
    with pytest.raises(SourceError, match=r"there is no file s3://data/packed/t-000003\.tar"):
        load_unlabeled([PATTERN.replace("000002", "000003")])


def test_what_was_read_of_a_shard_that_changes_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At equal length, with its picture and its label in the places of the old ones."""
    system, uri = fsspec.filesystem("memory"), "shards://memory://shards/a.tar"
    files: list[set[str]] = []
    for name, shade in (("cat", 1), ("dog", 2)):
        members = [("a.bmp", picture(shade, "BMP")), ("a.json", label(CELL | {"class": name}))]
        content = write_tar(tmp_path / "a.tar", members).read_bytes()
        system.pipe("/shards/a.tar", content)
        records = load_one_labeled(f"{uri}?classes=cat,dog")
        assert ["cat", "dog"][records[0]["annotations"][0]["category_id"]] == name
        assert shades(records) == shades(load_unlabeled([uri])) == [shade]
        files.append({record["file_name"] for record in records})
    # Files that name images of shards, such as stored labels, still do.
    assert files[0] == files[1]
    asked: list[str] = []
    for question in ("describe", "read_range"):
        monkeypatch.setattr(f"dre_ssod.stores.cache.{question}", lambda *w: asked.append(w[0]))
    assert shades(records) == [2]
    assert asked == []
    monkeypatch.undo()
    # Another machine, which has the records alone.
    monkeypatch.setenv("DRE_SSOD_CACHE", str(tmp_path / "other"))
    assert shades(records) == [2]
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_a_store_that_gives_nothing_but_sizes_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    system = fsspec.filesystem("memory")
    for name in ("a", "b"):
        members = [(f"{name}.bmp", picture(1, "BMP"))]
        content = write_tar(tmp_path / f"{name}.tar", members).read_bytes()
        system.pipe(f"/nameless/{name}.tar", content)
    load_unlabeled(["shards://memory://nameless/*.tar"])
    assert "nameless" not in caplog.text

    def describe(address: str) -> dict[str, Any]:
        return {"type": "file", "size": system.info(address)["size"]}

    for module in ("stores.cache", "data.sources.shards.patterns"):
        monkeypatch.setattr(f"dre_ssod.{module}.describe", describe)
    records = load_unlabeled(["shards://memory://nameless/*.tar"])
    monkeypatch.setenv("DRE_SSOD_CACHE", str(tmp_path / "other"))
    assert shades(records) == [1, 1]
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    (warning,) = [line for line in caplog.messages if "nameless" in line]
    assert warning.startswith("memory://nameless gives neither a date nor a checksum")
    assert "Give a changed shard another name, or empty $DRE_SSOD_CACHE" in warning


def test_of_the_cache_the_index_of_shards_goes_last(
    packed: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as old as the start of a run, and all headers are read to make another."""
    records = load_one_labeled(PATTERN)
    shades(records)
    files = [path for path in cache_folder.rglob("*") if path.is_file()]
    pictures = [path for path in files if path.name.startswith("part.")]
    notes = [path for path in files if path.name.endswith(".0.")]
    (index,) = Cache(cache_folder, 1).derived.glob("*.index")
    assert len(pictures) == 16
    for path in (index, index.with_name(f"{index.name}.lock"), *notes):
        age(4000, path)
    for path in pictures:
        age(2000, path)
    whole = sum(path.stat().st_size for path in files)
    Cache(cache_folder, whole - 1).clear()
    left = [path for path in pictures if path.exists()]
    assert 0 < len(left) < len(pictures)
    assert index.exists()
    assert [path.exists() for path in notes] == [True] * 3
    Cache(cache_folder, 1).clear()
    assert not [path for path in (*pictures, index) if path.exists()]
    assert index.with_name(f"{index.name}.lock").exists()
    # A note that is not believed any more is of no use.
    for path in notes:
        age(100_000, path)
    Cache(cache_folder, 1e9).clear()
    assert not [path for path in notes if path.exists()]
