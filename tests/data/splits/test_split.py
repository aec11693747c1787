from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dre_ssod.data.sources.catalog import UNLABELED_KEYS
from dre_ssod.data.splits.files import load_split, record_split
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.data.splits.split import draw_split
from dre_ssod.errors import SourceError

Writer = Callable[..., Path]
IDS = st.lists(st.text(max_size=5), min_size=2, max_size=60, unique=True)


def test_the_ids_of_lowest_hash_are_drawn() -> None:
    ids = [f"0/{number}" for number in range(10)]
    keys = sorted((hashlib.sha256(f"3:{name}".encode()).hexdigest(), name) for name in ids)
    split = draw_split(ids, 40.0, 3)
    assert split.labeled_ids == tuple(sorted(name for _, name in keys[:4]))
    assert (split.percent, split.fold, split.total) == (40.0, 3, 10)


def test_a_draw_is_the_same_for_ever() -> None:
    split = draw_split([f"0/{number}" for number in range(200)], 5.0, 0)
    assert split.labeled_ids[:3] == ("0/125", "0/142", "0/158")
    assert split.sha256 == "056c342c8b3910150a79ceb38000c8c21da64e87cf1791a356fcf1acac855ec2"


@pytest.mark.parametrize(
    ("percent", "total", "count"),
    # 0.29 * 100 is 28.999999999999996 in floating point.
    [(10, 205, 20), (1, 117266, 1172), (29, 100, 29), (0.5, 200, 1), (100, 7, 7), (14.0, 50, 7)],
)
def test_the_count_is_rounded_down_without_float_error(
    percent: float, total: int, count: int
) -> None:
    split = draw_split([str(number) for number in range(total)], percent, 0)
    assert len(split.labeled_ids) == count


@given(ids=IDS, fold=st.integers(0, 9), order=st.randoms(use_true_random=False))
def test_draws_nest_do_not_repeat_and_ignore_the_order(
    ids: list[str], fold: int, order: random.Random
) -> None:
    half, most = draw_split(ids, 50, fold), draw_split(ids, 80, fold)
    for split, count in ((half, len(ids) // 2), (most, len(ids) * 4 // 5)):
        assert len(set(split.labeled_ids)) == len(split.labeled_ids) == count
    assert set(half.labeled_ids) <= set(most.labeled_ids) <= set(ids)
    shuffled = list(ids)
    order.shuffle(shuffled)
    assert draw_split(shuffled, 50, fold) == half


@pytest.mark.parametrize("percent", [1, 5, 10])
def test_ten_folds_differ_and_overlap_as_independent_draws_do(percent: int) -> None:
    ids = [f"0/{number}" for number in range(5000)]
    draws = [set(draw_split(ids, percent, fold).labeled_ids) for fold in range(10)]
    size = 50 * percent
    assert {len(draw) for draw in draws} == {size}
    # Two draws share size^2 / 5000 images on average, with a variance of less than that.
    mean = size * size / 5000
    for first, second in itertools.combinations(draws, 2):
        assert abs(len(first & second) - mean) <= 5 * mean**0.5 + 1


@pytest.mark.parametrize(
    ("percent", "fold", "digest"),
    # On every machine and Python version: no random generator is involved.
    [
        (1, 0, "c003f74f5c92ebf0518598cb381f2447b3473de5ea4e31bb532560cc46e9dfdd"),
        (1, 4, "a71236480d72e49088c340619ca181cb7de76882922ab8a91b2a823fafc4b9e0"),
        (5, 1, "4310b5e577451fe16cb76c92c0b4769d5981cc8b0116fde01e0dca1e12ed8f8d"),
        (10, 2, "fe5ea424bf8e4fbf035e2afb898c180567eb1624330534eef7f8b4c97363b342"),
        (10, 3, "fdea4632a0f304e161b597e511c62c6182c77d256b580812b8486b2e14bc0f39"),
    ],
)
def test_draws_of_the_size_of_coco_are_pinned(percent: int, fold: int, digest: str) -> None:
    split = draw_split([f"0/{number}" for number in range(1, 118288)], percent, fold)
    assert (len(split.labeled_ids), split.total) == (118287 * percent // 100, 118287)
    assert split.sha256 == digest


@pytest.mark.parametrize(
    ("ids", "percent", "fold", "message"),
    [
        (["a"], 0, 0, r"DATASETS\.LABELED_PERCENT must be in \(0, 100\], is 0"),
        (["a"], 100.5, 0, "is 100.5"),
        (["a"], float("nan"), 0, "is nan"),
        (["a"], 10, -1, r"DATASETS\.LABELED_FOLD must be 0 or more, is -1"),
        (["a", "b", "a"], 10, 0, "'a' occurs twice"),
        (["a", "b", "c"], 10, 0, "10 of 3 images is less than one image; use at least 33.3"),
        ([], 10, 0, "10 of 0 images is less than one image$"),
    ],
)
def test_impossible_draws_are_explained(
    ids: list[str], percent: float, fold: int, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        draw_split(ids, percent, fold)


def test_a_saved_split_names_itself_and_its_images(tmp_path: Path) -> None:
    split = draw_split(["0/a", "0/b", "1/a", "1/é"], 50, 2)
    split.save(tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text(encoding="utf-8"))
    ids = content.pop("labeled_ids")
    assert content == {
        "percent": 50.0,
        "fold": 2,
        "labeled": 2,
        "total": 4,
        "origin": "draw",
        "sha256": hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest(),
    }
    assert tuple(ids) == split.labeled_ids


@pytest.fixture
def coco_uri(tmp_path: Path, write_coco: Writer) -> str:
    """20 images: every second one has a box, image 0 has a crowd box only."""
    boxes = {number: [(1, (0, 0, 2, 2))] * (number % 2 == 0) for number in range(20)}
    write_coco(tmp_path / "a.json", boxes, {1: "cat"}, crowd=[1])
    (tmp_path / "images").mkdir()
    return f"coco://{tmp_path / 'a.json'}?images={tmp_path / 'images'}"


def test_the_pools_part_the_images_and_hide_the_labels_of_the_rest(coco_uri: str) -> None:
    pools = build_pools([coco_uri], [], 40.0, 1, filter_empty=False)
    assert pools.split is not None
    assert {f"0/{r['image_id']}" for r in pools.labeled} == set(pools.split.labeled_ids)
    labeled = [record["image_id"] for record in pools.labeled]
    unlabeled = [record["image_id"] for record in pools.unlabeled]
    assert (len(labeled), len(unlabeled)) == (8, 12)
    assert sorted(labeled + unlabeled) == list(range(20))
    assert all(set(record) <= set(UNLABELED_KEYS) for record in pools.unlabeled)
    assert all("annotations" in record for record in pools.labeled)
    assert pools.classes == ["cat"]


def test_images_without_boxes_leave_the_labeled_pool_after_the_draw(
    coco_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = build_pools([coco_uri], [], 60.0, 0, filter_empty=False)
    with caplog.at_level(logging.INFO):
        filtered = build_pools([coco_uri], [], 60.0, 0, filter_empty=True)
    assert filtered.split == whole.split
    assert filtered.unlabeled == whole.unlabeled
    kept = [record for record in whole.labeled if record["image_id"] % 2 == 0]
    assert filtered.labeled == [record for record in kept if record["image_id"] != 0]
    removed = len(whole.labeled) - len(filtered.labeled)
    assert removed > 0
    assert (filtered.empty, whole.empty) == (removed, 0)
    assert f"Removed {removed} labeled images without boxes" in caplog.text


def test_all_images_labeled_is_no_split(coco_uri: str, tmp_path: Path, write_image: Writer) -> None:
    write_image(tmp_path / "more" / "1.png")
    pools = build_pools([coco_uri], [f"folder://{tmp_path / 'more'}"], filter_empty=False)
    assert pools.split is None
    assert len(pools.labeled) == 20
    assert [record["image_id"] for record in pools.unlabeled] == ["1.png"]


def test_the_rest_comes_before_further_sets(
    coco_uri: str, tmp_path: Path, write_image: Writer
) -> None:
    write_image(tmp_path / "more" / "1.png")
    pools = build_pools([coco_uri], [f"folder://{tmp_path / 'more'}"], 50.0, 0)
    assert len(pools.unlabeled) == 11
    assert pools.unlabeled[-1]["image_id"] == "1.png"


def test_equal_image_ids_of_two_sets_are_different_images(coco_uri: str) -> None:
    twin = coco_uri.replace("?images=", "?images=%2F..")  # another text for the same files
    pools = build_pools([coco_uri, twin], [], 50.0, 0, filter_empty=False)
    assert (len(pools.labeled), len(pools.unlabeled)) == (20, 20)
    assert pools.split is not None
    assert {name.split("/")[0] for name in pools.split.labeled_ids} == {"0", "1"}


def test_images_of_two_labeled_sets_are_told_by_file(
    tmp_path: Path, write_coco: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    box = [(1, (0, 0, 2, 2))]
    for name, ids in (("hand", [1, 2, 3]), ("model", [3, 2, 7]), ("other", [8, 9])):
        write_coco(tmp_path / f"{name}.json", dict.fromkeys(ids, box), {1: "cat"})
    (tmp_path / "images").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "images")
    hand, model, other = (
        f"coco://{tmp_path / name}.json?images={tmp_path / folder}"
        for name, folder in (("hand", "images"), ("model", "linked"), ("other", "images"))
    )
    build_pools([hand, model, other, model], [])
    [told] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told.startswith(f"DATASETS.TRAIN: {hand} and {model} have 2 images in common, such as ")
    assert str(tmp_path / "linked") in told
    caplog.clear()
    # What is named twice is meant to count twice.
    build_pools([hand, other, hand], [])
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]


def test_images_of_two_unlabeled_sets_are_told_by_file(
    tmp_path: Path, write_coco: Writer, write_image: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = {number: [(1, (0, 0, 2, 2))] for number in range(1, 5)}
    write_coco(tmp_path / "a.json", boxes, {1: "cat"})
    for number in range(1, 7):
        write_image(tmp_path / "images" / f"{number}.png")
    (tmp_path / "more").mkdir()
    for number in (4, 5, 6):
        os.link(tmp_path / f"images/{number}.png", tmp_path / f"more/{number}.png")
    train = f"coco://{tmp_path}/a.json?images={tmp_path}/images"
    images, more = (f"folder://{tmp_path}/{name}" for name in ("images", "more"))

    def told(unlabeled: list[str], **options: Any) -> list[str]:
        caplog.clear()
        build_pools([train], unlabeled, **options)
        return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]

    [said] = told([images, more])
    assert f"{images} and {more} have 2 images in common, such as {tmp_path}/more/" in said
    assert "Leave one of the sets out" in said
    # The rest of a draw is left out of the others, unless labeled images are used both ways.
    assert not told([images], percent=50.0)
    [said] = told([images], percent=50.0, overlap=True)
    assert f"the unlabeled part of DATASETS.TRAIN and {images} have 2 images in common" in said
    assert "Set DATASETS.UNLABELED_OVERLAP False" in said
    # What is named twice is meant to count twice.
    assert not told([images, images], overlap=True)


def test_an_unlabeled_set_that_lists_an_image_twice_is_told(
    tmp_path: Path, write_coco: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    box = [(1, (0, 0, 2, 2))]
    write_coco(tmp_path / "a.json", {1: box}, {1: "cat"})
    path = write_coco(tmp_path / "b.json", {2: [], 3: [], 4: []}, {1: "cat"})
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    path.write_text(json.dumps(content))
    train, unlabeled = (f"coco://{tmp_path}/{name}.json?images={tmp_path}" for name in "ab")
    build_pools([train], [unlabeled])
    [said] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"{unlabeled} lists 1 image more than once, such as {tmp_path}/2.png" in said


def test_images_that_count_as_empty_are_named_where_no_unlabeled_one_is_left(
    tmp_path: Path, write_coco: Writer, write_image: Writer
) -> None:
    """A half-drawn set that lists all images of the folder."""
    box = [(1, (0, 0, 2, 2))]
    write_coco(tmp_path / "a.json", {1: box, 2: box, 3: [], 4: []}, {1: "cat"})
    for number in range(1, 5):
        write_image(tmp_path / "images" / f"{number}.png")
    train = f"coco://{tmp_path}/a.json?images={tmp_path}/images"
    unlabeled = f"folder://{tmp_path}/images"
    message = "all of its 4 images .* 2 of these have no box there: .* write empty=unlabeled into"
    with pytest.raises(SourceError, match=message):
        build_pools([train], [unlabeled])
    pools = build_pools([f"{train}&empty=unlabeled"], [unlabeled])
    assert (len(pools.labeled), len(pools.unlabeled)) == (2, 2)
    write_coco(tmp_path / "a.json", dict.fromkeys(range(1, 5), box), {1: "cat"})
    with pytest.raises(SourceError, match=r"to use labeled ones both ways$"):
        build_pools([train], [unlabeled])


def test_no_labeled_box_is_an_error(tmp_path: Path, write_coco: Writer) -> None:
    write_coco(tmp_path / "a.json", {1: [], 2: [(1, (0, 0, 2, 2))]}, {1: "cat"}, crowd=[1])
    uri = f"coco://{tmp_path / 'a.json'}?images={tmp_path}"
    for filter_empty in (True, False):
        with pytest.raises(SourceError, match="none of the 2 labeled images of coco"):
            build_pools([uri], [], filter_empty=filter_empty)


def test_only_crowds_are_no_labels_and_the_message_says_so(
    tmp_path: Path, write_coco: Writer
) -> None:
    boxes = {1: [(1, (0, 0, 2, 2)), (1, (0, 0, 3, 3))]}
    write_coco(tmp_path / "a.json", boxes, {1: "cat"}, crowd=[1, 2])
    message = r"has a box: 2 objects are crowd regions \(set 'iscrowd' to 0 where an entry is one"
    with pytest.raises(SourceError, match=message):
        build_pools([f"coco://{tmp_path / 'a.json'}?images={tmp_path}"], [])


def test_a_resumed_run_keeps_its_labeled_images(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    ids = [f"0/{number}" for number in range(20)]
    first, other = draw_split(ids, 50, 0), draw_split(ids, 50, 1)
    record_split(first, path, resumed=False)
    saved = path.read_bytes()
    record_split(first, path, resumed=True)
    for changed in (other, draw_split(ids, 40, 0), None):
        with pytest.raises(SourceError, match="the run was started with other labeled images"):
            record_split(changed, path, resumed=True)
    assert path.read_bytes() == saved
    # A run that has trained nothing yet is started anew.
    record_split(other, path, resumed=False)
    assert json.loads(path.read_text(encoding="utf-8"))["sha256"] == other.sha256
    record_split(None, path, resumed=False)
    assert not path.exists()
    record_split(None, path, resumed=True)


def test_what_a_split_file_said_before_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "split.json"
    first, other = (draw_split([f"0/{n}" for n in range(20)], 50, fold) for fold in (0, 1))
    # Somebody's own, with more in it: the same images are no change.
    first.save(path)
    own = json.dumps({**json.loads(path.read_text(encoding="utf-8")), "note": "mine"})
    path.write_text(own, encoding="utf-8")
    record_split(first, path, resumed=False)
    assert path.read_text(encoding="utf-8") == own
    assert not caplog.records
    record_split(other, path, resumed=False)
    assert (tmp_path / "split_1.json").read_text(encoding="utf-8") == own
    assert load_split(path, [f"0/{n}" for n in range(20)]) == other
    assert f"{path} names other labeled images than this run has: it is now" in caplog.text
    path.write_text("{", encoding="utf-8")
    record_split(None, path, resumed=False)
    assert not path.exists()
    assert (tmp_path / "split_2.json").read_text(encoding="utf-8") == "{"
