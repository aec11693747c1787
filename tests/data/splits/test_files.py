"""Splits that were drawn elsewhere: id lists, saved splits, Unbiased Teacher's indices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.data.build import filter_images_with_only_crowd_annotations
from hypothesis import given
from hypothesis import strategies as st

from dre_ssod.data.sources.catalog import load_named, load_one_labeled
from dre_ssod.data.splits.files import load_split, load_unbiased_teacher_split, read_indices
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.data.splits.split import SAVED_KEYS, draw_split, hash_ids
from dre_ssod.errors import SourceError

Writer = Callable[..., Path]
IDS = [f"0/{number}" for number in range(10, 30)]


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@given(
    ids=st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=4, unique=True),
    percent=st.floats(25, 100),
    fold=st.integers(0, 10**6),
)
def test_a_saved_split_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], percent: float, fold: int
) -> None:
    path = tmp_path_factory.mktemp("split") / "split.json"
    split = draw_split([f"0/{name}" for name in ids], percent, fold)
    split.save(path)
    assert load_split(path, [f"0/{name}" for name in reversed(ids)]) == split


def test_a_list_of_ids_is_taken_as_it_stands(tmp_path: Path) -> None:
    split = load_split(write(tmp_path / "ids.json", [12, "10", 29]), IDS)
    assert split.labeled_ids == ("0/10", "0/12", "0/29")
    assert (split.percent, split.fold, split.total) == (15.0, None, 20)
    assert split.origin == "ids.json"
    split.save(tmp_path / "split.json")
    assert load_split(tmp_path / "split.json", IDS) == split


def test_a_byte_order_mark_is_no_part_of_a_split(tmp_path: Path) -> None:
    split = draw_split(IDS, 50, 0)
    split.save(tmp_path / "split.json")
    for name, content in (
        ("split.json", (tmp_path / "split.json").read_bytes()),
        ("ids.json", b"[10, 12]"),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
    assert load_split(tmp_path / "split.json", IDS) == split
    assert load_split(tmp_path / "ids.json", IDS).labeled_ids == ("0/10", "0/12")


def test_ids_of_several_sets_carry_the_number_of_the_set(tmp_path: Path) -> None:
    ids = [*IDS, "1/10", "1/a/b"]
    path = write(tmp_path / "ids.json", ["0/10", "1/a/b"])
    assert load_split(path, ids).labeled_ids == ("0/10", "1/a/b")
    with pytest.raises(SourceError, match=r"1 of 1 ids are not in the set: '10'.*look like '0/10'"):
        load_split(write(tmp_path / "ids.json", [10]), ids)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 12, 2, 3, 4], r"4 of 5 ids are not in the set: '1', '2', '3', ...\. Ids .* like '10'"),
        (["0/10"], "not in the set: '0/10'. Ids of this set look like '10'"),
        ([10, "10"], "the image id '10' occurs twice"),
        ([], "the list of image ids is empty"),
        ([10, 11.0], "must be an integer or a text, is 11.0"),
        ([True], "is True"),
        ([[10]], r"is \[10\]"),
        (["\ud800"], "not in the set"),
        ("10", "holds a str; valid: a JSON list of image ids"),
        ({"1.0": {"1": [3]}}, "percent, fold, .* is missing; .*--unbiased-teacher"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(SourceError, match=f"ids.json: .*{message}"):
        load_split(write(tmp_path / "ids.json", content), IDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labeled_ids": ["0/10", "0/12"]}, "'sha256' is '.*', but that of its ids is"),
        ({"sha256": 3}, "'sha256' is 3"),
        ({"labeled": 3}, "'labeled' is 3, but it has 2 ids"),
        ({"labeled_ids": "0/10"}, "'labeled_ids' must be a list"),
        ({"labeled_ids": ["0/10", "0/10"]}, "'0/10' occurs twice"),
        ({"percent": "10"}, r"'percent' must be a number in \(0, 100\], is '10'"),
        ({"percent": 0}, "is 0"),
        ({"fold": -1}, "'fold' must be an integer from 0 or null, is -1"),
        ({"fold": True}, "is True"),
        ({"total": 1}, "'total' must be at least 2, is 1"),
        ({"total": 21}, "was made from 21 images, but this set has 20"),
        ({"origin": 1}, "'origin' must be a text"),
    ],
)
def test_a_changed_split_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "split.json"
    draw_split(IDS, 10, 0).save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    with pytest.raises(SourceError, match=f"split.json: .*{message}"):
        load_split(write(path, {**content, **changes}), IDS)


@pytest.mark.parametrize("key", SAVED_KEYS)
def test_a_split_without_one_of_its_keys_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "split.json"
    draw_split(IDS, 10, 0).save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[key]
    with pytest.raises(SourceError, match=f"{key} is missing"):
        load_split(write(path, content), IDS)


def test_a_split_of_other_images_is_refused(tmp_path: Path) -> None:
    draw_split(IDS, 50, 0).save(tmp_path / "split.json")
    with pytest.raises(SourceError, match="10 of 10 ids are not in the set"):
        load_split(tmp_path / "split.json", [f"0/{number}" for number in range(20, 0, -1)][10:])


@pytest.mark.parametrize("text", ["", "[1", "\0", "[" * 100_000])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ids.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=r"ids\.json: (not valid JSON|cannot be read)"):
        load_split(path, IDS)
    with pytest.raises(SourceError, match=r"nowhere\.json: cannot be read"):
        load_split(tmp_path / "nowhere.json", IDS)


def test_images_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'0/10' occurs twice"):
        load_split(write(tmp_path / "ids.json", [10]), [*IDS, "0/10"])


@pytest.fixture
def sparse(tmp_path: Path, write_coco: Writer) -> str:
    """20 images, ids falling in the file: those whose id 3 divides have a box, 2 only a crowd."""
    boxes = {number: [(1, (0, 0, 2, 2))] * (number % 3 == 0) for number in range(20, 0, -1)}
    boxes[2] = [(1, (0, 0, 3, 3))]
    crowd = 1 + sum(len(entries) for number, entries in boxes.items() if number > 2)
    write_coco(tmp_path / "a.json", boxes, {1: "cat"}, crowd=[crowd])
    (tmp_path / "images").mkdir()
    return f"coco://{tmp_path / 'a.json'}?images={tmp_path / 'images'}"


def test_indices_count_the_images_that_detectron2_keeps(tmp_path: Path, sparse: str) -> None:
    kept = filter_images_with_only_crowd_annotations(load_one_labeled(sparse))
    assert [record["image_id"] for record in kept] == [3, 6, 9, 12, 15, 18]
    path = write(tmp_path / "seeds.txt", {"0.5": {"1": []}, "50.0": {"1": [5, 0, 2], "2": []}})
    split = load_unbiased_teacher_split(path, 50, 1, load_named([sparse]))
    assert split.labeled_ids == tuple(sorted(f"0/{kept[i]['image_id']}" for i in (5, 0, 2)))
    assert (split.percent, split.fold, split.total) == (15.0, None, 20)
    assert split.origin == "seeds.txt, percent 50, seed 1"


def test_images_whose_boxes_were_dropped_are_counted(tmp_path: Path, write_coco: Writer) -> None:
    boxes = {1: [(1, (0, 0, 0, 2))], 2: [(1, (0, 0, 2, 2))]}
    write_coco(tmp_path / "a.json", boxes, {1: "cat"})
    records = load_named([f"coco://{tmp_path / 'a.json'}?images={tmp_path}"])
    path = write(tmp_path / "seeds.txt", {"50": {"0": [1]}})
    assert load_unbiased_teacher_split(path, 50, 0, records).labeled_ids == ("0/2",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"1.0": {"1": [1]}}, "has no percent 50; valid: 1$"),
        ({"50.0": {"0": [1], "2": [1]}}, "has no seed 1; valid: 0, 2$"),
        ({}, "has no percent 50; valid: none"),
        ({"50": {"1": [0, 1, 6]}}, "index 6 is out of range; the set has 6 images with boxes"),
        ({"50": {"1": [0, 1, -1]}}, "index -1 is out of range"),
        ({"50": {"1": [0, 1, 1]}}, "index 1 occurs twice"),
        ({"50": {"1": [0, 1, 2.0]}}, "an index must be an integer, is 2.0"),
        ({"50": {"1": [0, 1, True]}}, "is True"),
        (
            {"50": {"1": [0, 1]}},
            "has 2 indices, but 50 percent of the 6 images with boxes .* are 3",
        ),
        ({"50": {"1": {"0": 1}}}, "must be a list of indices, is dict"),
        ({"50": [1]}, "percent 50: holds a list; .*{percent: {seed:"),
        ({"half": {}}, "the key 'half' is no number"),
        ({"50": {"a": []}}, "percent 50: the key 'a' is no number"),
        ({"50": {}, "50.0": {}}, "two keys mean 50"),
        ([0, 1, 2], "holds a list; .*{percent: {seed:"),
    ],
)
def test_indices_that_do_not_fit_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "seeds.txt", content)
    with pytest.raises(SourceError, match=f"seeds.txt.*{message}"):
        read_indices(path, 50, 1, 6)


def test_a_run_takes_its_labels_from_a_file(tmp_path: Path, sparse: str) -> None:
    path = write(tmp_path / "ids.json", [3, 1, 18])
    pools = build_pools([sparse], [], split_file=str(path))
    assert [record["image_id"] for record in pools.labeled] == [3, 18]
    assert [record["image_id"] for record in pools.unlabeled] == sorted(
        {*range(1, 21)} - {1, 3, 18}
    )
    assert pools.split is not None
    assert pools.split.sha256 == hash_ids(["0/1", "0/18", "0/3"])


def test_a_run_with_the_saved_split_of_another_has_the_same_pools(
    tmp_path: Path, sparse: str
) -> None:
    drawn = build_pools([sparse], [], 60.0, 3)
    assert drawn.split is not None
    drawn.split.save(tmp_path / "split.json")
    assert build_pools([sparse], [], split_file=str(tmp_path / "split.json")) == drawn


def test_a_file_that_leaves_no_box_is_named(tmp_path: Path, sparse: str) -> None:
    path = write(tmp_path / "ids.json", [1, 2])
    with pytest.raises(SourceError, match=r"none of the 2 .* another DATASETS.SPLIT_FILE \(.*ids"):
        build_pools([sparse], [], split_file=str(path))
