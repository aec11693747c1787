"""Tar files as a set: what an index holds, what is refused, and what is read where."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dre_ssod.data.audit.files import check_file
from dre_ssod.data.images import ImageError, read_image
from dre_ssod.data.loader import BatchPlan, build_paired_loader
from dre_ssod.data.records import identify_files
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import load_unlabeled
from dre_ssod.data.sources.shards import ShardRecords, index, patterns, scanning
from dre_ssod.data.splits.pools import build_pools, without_known
from dre_ssod.errors import SourceError
from dre_ssod.stores import Piece
from tests.tiny_dataset import write_tiny_dataset


def picture(shade: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(file, kind)
    return file.getvalue()


def label(*objects: Any) -> bytes:
    return json.dumps({"width": 8, "height": 6, "objects": list(objects)}).encode()


def name_only(record: dict[str, Any], rng: Any) -> Any:
    return record["file_name"]


CELL = {"class": "cell", "bbox": [1, 2, 3, 4]}


def write_tar(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_pool(folder: Path) -> str:
    """Three shards of two, none and one image; the URI of all."""
    long = "deep/" * 30 + "c.png"
    write_tar(folder / "p-00.tar", [("a.png", picture(1)), ("sub/b.PNG", picture(2))])
    write_tar(folder / "p-01.tar", [("readme.txt", b"nothing"), ("._x.png", b"of macOS")])
    write_tar(folder / "p-02.tar", [(long, picture(3))], format=tarfile.PAX_FORMAT)
    return f"shards://{folder}/p-{{00..02}}.tar"


def shades(records: Any) -> list[int]:
    return [int(read_image(record["file_name"], "RGB")[0, 0, 0]) for record in records]


def test_images_are_read_from_where_they_lie(tmp_path: Path) -> None:
    """In the order of the shards, by a range, a wildcard and a relative path."""
    records = load_unlabeled([write_pool(tmp_path)])
    assert isinstance(records, ShardRecords)
    assert len(records) == 3
    assert shades(records) == [1, 2, 3]
    assert shades([records[-1], records[-3], *records[1:]]) == [3, 1, 2, 3]
    assert [record["image_id"] for record in records][:2] == [
        "p-00.tar/a.png",
        "p-00.tar/sub/b.PNG",
    ]
    assert set(records[2]) == {"file_name", "image_id"}
    assert Path(records[2]["file_name"]).name == "c.png"
    with pytest.raises(IndexError):
        records[3]
    assert shades(load_unlabeled([f"shards://{tmp_path}/p-0[02]*.tar"])) == [1, 2, 3]
    one = load_unlabeled([f"shards://{tmp_path}/p-02.tar"])
    assert [record["file_name"] for record in one] == [records[2]["file_name"]]


def test_a_relative_pattern_starts_where_paths_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pool(tmp_path / "pool")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("pool", "./pool", "pool/", "~/pool"):
        assert shades(load_unlabeled([f"shards://{folder}/p-{{00..02}}.tar"])) == [1, 2, 3]
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for pattern in ("{00..02}", "*"):
        assert shades(load_unlabeled([f"shards://pool/p-{pattern}.tar"])) == [1, 2, 3]


def test_the_index_is_made_once_and_kept_beside_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of shards that change, only these are read again; of a damaged or earlier index, all."""
    uri = write_pool(tmp_path)
    read: list[str] = []
    scan = index.scan
    monkeypatch.setattr(index, "scan", lambda shard: read.append(shard.name) or scan(shard))
    load_unlabeled([uri])
    load_unlabeled([uri])
    assert read == ["p-00.tar", "p-01.tar", "p-02.tar"]
    (file,) = tmp_path.glob("shards-*.index")
    read.clear()
    write_tar(tmp_path / "p-01.tar", [("new.png", picture(9))])
    assert shades(load_unlabeled([uri])) == [1, 2, 9, 3]
    assert read == ["p-01.tar"]
    earlier = file.read_bytes()[:-1] + b"2"
    for damaged in (b"", b"no index", file.read_bytes()[:-3], earlier):
        read.clear()
        file.write_bytes(damaged)
        assert shades(load_unlabeled([uri])) == [1, 2, 9, 3]
        assert len(read) == 3


def test_of_processes_that_start_together_one_makes_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, log, scan = write_pool(tmp_path), tmp_path / "log", index.scan

    def noted(shard: patterns.Shard) -> Any:
        with log.open("a") as file:
            file.write(f"{shard.name}\n")
        time.sleep(0.1)
        return scan(shard)

    monkeypatch.setattr(index, "scan", noted)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=load_unlabeled, args=([uri],)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text().split() == ["p-00.tar", "p-01.tar", "p-02.tar"]


def test_an_index_that_cannot_be_beside_the_shards_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = write_pool(tmp_path / "pool")
    monkeypatch.setenv("DRE_SSOD_CACHE", str(tmp_path / "cache"))
    renew = index._renew

    def refuse(path: Path, *rest: Any) -> Any:
        if path.parent == tmp_path / "pool":
            raise index.FileError(f"{path} cannot be written")
        return renew(path, *rest)

    monkeypatch.setattr(index, "_renew", refuse)
    assert shades(load_unlabeled([uri])) == [1, 2, 3]
    assert len(list((tmp_path / "cache" / "shards").glob("*.index"))) == 1
    assert not list((tmp_path / "pool").glob("*.index"))


def test_records_go_to_loading_processes_without_their_index(tmp_path: Path) -> None:
    records = load_unlabeled([write_pool(tmp_path)])
    sent = pickle.dumps(records)
    assert b"sub/b.PNG" not in sent
    assert list(pickle.loads(sent)) == list(records)


def test_known_images_are_left_out_wherever_the_path_leads(tmp_path: Path) -> None:
    uri = write_pool(tmp_path / "pool")
    os.symlink(tmp_path / "pool", tmp_path / "link")
    records = load_unlabeled([uri])
    assert isinstance(records, ShardRecords)
    linked = load_unlabeled([uri.replace("/pool/", "/link/")])
    stranger = {"file_name": str(Piece(f"{tmp_path}/pool/p-00.tar", 512 * 7, 3, "z.png"))}
    rest = without_known(records, [linked[1], stranger, {"file_name": f"{tmp_path}/a.png"}])
    assert isinstance(rest, ShardRecords)
    assert shades(rest) == [1, 3]
    assert shades(without_known(rest, [records[0]])) == [3]
    assert without_known(records, [stranger]) is records
    # What tells the sets apart does.
    found = [rest.digests(), records.digests(), linked.digests()]  # type: ignore[attr-defined]
    assert [first == other for first, other in zip(*found[:2], strict=True)] == [False, True, True]
    assert found[1] == found[2]
    identify = identify_files()
    assert identify(linked[1]["file_name"]) == identify(records[1]["file_name"])


def test_a_pool_of_shards_stands_beside_others(tmp_path: Path) -> None:
    """The rest of a labeled set, a folder and shards, out of which what is labeled is left."""
    data = write_tiny_dataset(tmp_path / "data")
    pool = write_pool(tmp_path / "pool")
    pools = build_pools((data.labeled,), (data.unlabeled, pool), percent=50.0)
    assert [images for role, _, images in pools.sets if role == "unlabeled"] == [4, 4, 3]
    assert len(pools.unlabeled) == 11
    assert shades(pools.unlabeled[8:11]) == [1, 2, 3]
    assert isinstance(pools.unlabeled[8:11], ShardRecords)
    assert isinstance(pools.unlabeled[7:10], list)
    # Loading processes have the lists in another form.
    plan = BatchPlan(labeled=0, unlabeled=11)
    loader = build_paired_loader([], pools.unlabeled, name_only, name_only, plan, seed=1)
    drawn = next(iter(loader)).unlabeled
    assert sorted(drawn) == sorted(record["file_name"] for record in pools.unlabeled)
    assert [pools.unlabeled[-3]] == pools.unlabeled[8:9] == [pools.unlabeled[8]]


BROKEN = {
    "no tar": (b"x" * 2048, "is no tar file, or is damaged after byte 0"),
    "empty": (b"", "is no tar file, or is damaged after byte 0: empty file"),
    "gzip": (b"\x1f\x8b" + bytes(600), r"is compressed \(gzip\)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_shard_is_named(kind: str, tmp_path: Path) -> None:
    content, said = BROKEN[kind]
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError, match=rf"no image in 1 shard.*a\.tar: {said}"):
        load_unlabeled([f"shards://{tmp_path}/a.tar"])


@pytest.mark.parametrize(
    ("kept", "images", "said"),
    [
        (512 * 4 + 100, 2, "has no further header at byte 2048"),
        (512 * 3 + 20, 1, "ends within b.png"),
        (512 * 2 + 300, 1, "has no further header at byte 1024"),
    ],
)
def test_of_a_shard_that_was_cut_the_whole_images_count(
    kept: int, images: int, said: str, tmp_path: Path
) -> None:
    members = [("a.png", picture(1)), ("b.png", picture(2)), ("c.png", picture(3))]
    shard = write_tar(tmp_path / "cut-1.tar", members)
    write_tar(tmp_path / "cut-0.tar", [("a.png", picture(7))])
    shard.write_bytes(shard.read_bytes()[:kept])
    remarks = Remarks()
    uri = f"shards://{tmp_path}/cut-*.tar"
    records = load_unlabeled([uri], remarks)
    assert isinstance(records, ShardRecords)
    assert shades(records) == [7, 1, 2][: 1 + images]
    assert [f"{shard}: {said}" in text for text in remarks.items["broken-shard"]] == [True]
    # Half of the shards is whole; of the other one some bytes are lost.
    assert 0 < records.lost < 0.5


def test_a_disk_that_fails_is_no_broken_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(shard: patterns.Shard) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(scanning, "_open", fail)
    with pytest.raises(SourceError, match=r"p-00\.tar: cannot be read: .*Input/output error"):
        load_unlabeled([write_pool(tmp_path)])


def test_images_of_shards_are_checked_as_others_are(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("a.png", picture(1)), ("b.png", b"no picture")])
    good, bad = (check_file(r["file_name"]) for r in load_unlabeled([f"shards://{tmp_path}/a.tar"]))
    assert (good.status, good.width, good.height) == ("ok", 8, 6)
    assert bad.status == "unreadable"


def test_a_share_of_broken_shards_is_passed_over(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    uri = write_pool(tmp_path / "pool")
    (tmp_path / "pool" / "p-01.tar").write_bytes(b"x" * 2048)
    with pytest.raises(SourceError, match=r"33\.3 % of the shards cannot be read, more than"):
        build_pools((data.labeled,), (uri,))
    pools = build_pools((data.labeled,), (uri,), unreadable=0.34)
    assert shades(pools.unlabeled) == [1, 2, 3]


def test_an_image_of_a_shard_that_was_cut_since_is_no_image(tmp_path: Path) -> None:
    """Training replaces it, as any other that cannot be read."""
    records = load_unlabeled([write_pool(tmp_path)])
    os.truncate(tmp_path / "p-00.tar", 540)
    with pytest.raises(ImageError, match=r"a\.png: is cut off: .*p-00\.tar ends before byte"):
        read_image(records[0]["file_name"], "RGB")
    (tmp_path / "p-00.tar").unlink()
    with pytest.raises(ImageError, match=r"a\.png: there is no such file"):
        read_image(records[0]["file_name"], "RGB")
