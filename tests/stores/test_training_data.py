"""Sets in a bucket give the records and the batches that the same files give from a disk."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from dre_ssod.data.images import ImageError, read_image
from dre_ssod.data.loader import BatchPlan, build_paired_loader
from dre_ssod.data.mappers import LabeledMapper, UnlabeledMapper
from dre_ssod.data.sources.catalog import load_one_labeled, load_unlabeled
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.errors import SourceError
from dre_ssod.stores import StoreError
from tests.factories import tiny_cfg
from tests.tiny_dataset import TinyDataset, write_tiny_dataset

PLAN = BatchPlan(labeled=2, unlabeled=2)


@pytest.fixture
def data(tmp_path: Path, bucket: Any) -> TinyDataset:
    local = write_tiny_dataset(tmp_path / "data")
    bucket.put(f"{local.root}/", "data/tiny/", recursive=True)
    return local


def in_bucket(uri: str, data: TinyDataset) -> str:
    return uri.replace(str(data.root), "s3://data/tiny")


def batches(labeled: str, unlabeled: str, start: int, workers: int) -> list[Any]:
    cfg = tiny_cfg()
    pools = build_pools((labeled,), (unlabeled,), percent=50.0)
    loader = build_paired_loader(
        pools.labeled,
        pools.unlabeled,
        LabeledMapper.from_config(cfg),
        UnlabeledMapper.from_config(cfg),
        PLAN,
        seed=3,
        start=start,
        num_workers=workers,
    )
    return list(itertools.islice(loader, 4 - start))


@pytest.mark.parametrize(("start", "workers"), [(0, 0), (2, 1)])
def test_batches_are_those_of_the_disk(data: TinyDataset, start: int, workers: int) -> None:
    """From the start, and from where a resumed run continues, in a process of its own."""
    local = batches(data.labeled, data.unlabeled, 0, 0)[start:]
    remote = batches(in_bucket(data.labeled, data), in_bucket(data.unlabeled, data), start, workers)
    assert len(remote) == len(local)
    for ours, theirs in zip(local, remote, strict=True):
        assert not theirs.failures
        for one, other in zip(ours.labeled, theirs.labeled, strict=True):
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)
            assert other["file_name"].startswith("s3://data/tiny/train/")
        for one, other in zip(ours.unlabeled, theirs.unlabeled, strict=True):
            assert torch.equal(one.weak.image, other.weak.image)
            assert torch.equal(one.strong.image, other.strong.image)


def test_a_yolo_set_with_its_labels(tmp_path: Path, bucket: Any, data: TinyDataset) -> None:
    folder = tmp_path / "yolo"
    for place in ("images/train", "labels/train"):
        (folder / place).mkdir(parents=True)
    picture = (data.root / "train" / "1.png").read_bytes()
    (folder / "images/train/a.png").write_bytes(picture)
    (folder / "labels/train/a.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (folder / "data.yaml").write_text("train: images/train\nnames: [cell]\n")
    bucket.put(f"{folder}/", "data/yolo/", recursive=True)
    local = load_one_labeled(f"yolo://{folder}?split=train")
    remote = load_one_labeled("yolo://s3://data/yolo?split=train")
    assert [r["image_id"] for r in remote] == [r["image_id"] for r in local]
    assert [r["annotations"] for r in remote] == [r["annotations"] for r in local]
    assert remote[0]["file_name"] == "s3://data/yolo/images/train/a.png"


def test_the_root_of_datasets_can_be_a_store(
    data: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "s3://data/tiny")
    records = load_unlabeled(["folder://more"])
    assert [r["file_name"] for r in records] == [f"s3://data/tiny/more/u{n}.png" for n in range(4)]


def test_what_is_not_there_is_named(bucket: Any) -> None:
    with pytest.raises(SourceError, match=r"no folder 's3://data/none'; tried s3://data/none"):
        load_unlabeled(["folder://s3://data/none"])
    with pytest.raises(SourceError, match=r"as a folder of images is folder://s3://data/none$"):
        load_unlabeled(["s3://data/none"])
    with pytest.raises(ImageError, match=r"s3://data/none\.jpg: there is no such file"):
        read_image("s3://data/none.jpg", "RGB")


def test_a_store_that_fails_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not be replaced by another image, as one that cannot be decoded is."""

    def refuse(address: str) -> Any:
        raise StoreError(f"{address}: no answer")

    monkeypatch.setattr("dre_ssod.data.images.files.open_copy", refuse)
    with pytest.raises(StoreError, match="no answer"):
        read_image("s3://data/a.jpg", "RGB")
