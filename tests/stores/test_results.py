"""Programs whose results go to a bucket: what they print is where it can be read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dre_ssod.data.records import corners
from dre_ssod.data.sources.catalog import load_one_labeled, load_unlabeled
from dre_ssod.data.splits.pools import build_pools
from tests.tiny_dataset import TinyDataset, write_tiny_dataset
from tools import check_dataset, convert_dataset, make_split, merge_labels, pack_images, plot_run

Say = Callable[[], str]


@pytest.fixture
def data(tmp_path: Path, bucket: Any) -> TinyDataset:
    return write_tiny_dataset(tmp_path / "data")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Say:
    """What was printed; nothing of it is a path in which results are made."""

    def printed() -> str:
        text = capsys.readouterr().out
        assert "dre_ssod_" not in text
        return text

    return printed


def boxes(uri: str) -> list[Any]:
    return [
        [(item["category_id"], *map(round, corners(item))) for item in record["annotations"]]
        for record in load_one_labeled(uri)
    ]


def test_shards(data: TinyDataset, said: Say, bucket: Any) -> None:
    words = [data.unlabeled, "--images", "3", "--output"]
    assert pack_images.run([*words, "s3://data/packed"]) == 0
    (uri,) = eval(shlex.split(said().splitlines()[1])[1])
    assert uri == "shards://s3://data/packed/images-{000000..000001}.tar"
    assert len(load_unlabeled([uri])) == 4
    assert pack_images.run([*words, str(data.root / "packed")]) == 0
    name = "packed/images-000001.tar"
    assert bucket.cat(f"data/{name}") == (data.root / name).read_bytes()
    assert pack_images.run([*words, "s3://data/packed"]) == 2


def test_a_converted_dataset(data: TinyDataset, said: Say) -> None:
    for form in ("coco", "yolo"):
        words = [data.labeled, "--to", form, "--output", f"s3://data/{form}"]
        assert convert_dataset.run(words) == 0
        [uri] = shlex.split(said().splitlines()[1])
        assert uri.startswith(f"{form}://s3://data/{form}")
        assert boxes(uri) == boxes(data.labeled)


def test_a_store_has_no_links(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["voc://a", "--to", "yolo", "--output", "s3://data/new", "--images", "link"]
    with pytest.raises(SystemExit):
        convert_dataset.run(words)
    assert "a store has no links; choose copy" in capsys.readouterr().err


def test_a_split(data: TinyDataset, said: Say) -> None:
    words = [data.labeled, "--percent", "25", "--output", "s3://data/split"]
    assert make_split.run(words) == 0
    sets, whole = (line for line in said().splitlines() if line.startswith("  DATASETS."))
    [labeled, unlabeled] = re.findall(r"'(coco://s3://data/split/[^']+)'", sets)
    assert (len(load_one_labeled(labeled)), len(load_unlabeled([unlabeled]))) == (2, 6)
    split_file = whole.split()[-1]
    assert split_file == "s3://data/split/split.json"
    pools = build_pools((data.labeled,), (), split_file=split_file)
    assert len(pools.labeled) == 2
    assert make_split.run(words) == 2


def test_joined_labels_and_the_report_of_a_check(data: TinyDataset, said: Say, bucket: Any) -> None:
    words = ["--corrected", data.labeled, "--output", "s3://data/round_2.json"]
    assert merge_labels.run(words) == 0
    uri = said().splitlines()[1].strip()
    assert boxes(uri) == boxes(data.labeled)
    assert check_dataset.run(["--labeled", uri, "--json", "s3://data/found/a.json"]) == 0
    assert json.loads(bucket.cat("data/found/a.json"))
    assert check_dataset.run(["--labeled", uri, "--json", "s3://data/found/a.json"]) == 2


def test_plots_of_a_run_are_replaced(tmp_path: Path, said: Say, bucket: Any) -> None:
    (tmp_path / "one").mkdir()
    line = {"iteration": 9, "teacher/bbox/AP": 12.345, "loss_cls": 0.5}
    (tmp_path / "one" / "metrics.json").write_text(json.dumps(line) + "\n")
    bucket.pipe("data/plots/runs.md", b"of before")
    assert plot_run.run([str(tmp_path / "one"), "--output", "s3://data/plots"]) == 0
    assert said().splitlines()[-1] == "s3://data/plots/runs.png, s3://data/plots/runs.md"
    assert b"12.35" in bucket.cat("data/plots/runs.md")
    assert bucket.cat("data/plots/runs.png").startswith(b"\x89PNG")
