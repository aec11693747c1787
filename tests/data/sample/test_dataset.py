"""The sample set: the same bytes from the same seed, valid annotations, and never half a set."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image

from dre_ssod.data.sample import dataset as sample_set
from dre_ssod.data.sample.dataset import (
    CLASS_NAMES,
    PARTS,
    SAMPLE_SET_VERSION,
    Part,
    content_hash,
    encode_png,
    ensure_sample_set,
    generate_sample_set,
)
from dre_ssod.data.sample.scenes import MAX_OBJECTS
from dre_ssod.data.sample.shapes import HEIGHT, WIDTH, RandomStream

# A change of any of these hashes is a change of the set: raise SAMPLE_SET_VERSION with it.
SHA256_OF_SEED_0 = "fb9ed924dfaba7f2bba0c14e4e2a0bb44a121bcc5552afe3328c6baf6ad9150a"
SHA256_OF_ANNOTATIONS = {
    "labeled.json": "f68cfc6e2f6d2c0f604a4adbe3dace518ffbfa89415a6d16abf6dfea5f3cbadd",
    "unlabeled_truth.json": "bee23226a0783c6e182e5dcc8b2419948a4b287e7cb3e4a762ebfe1e3eb699fc",
    "val.json": "dd889f695355592019ff76da435a08d460bb2ba9ddd1d9074c822f3472fb8d86",
}

SMALL = tuple(Part(s.name, s.annotation_file, 3, s.allow_empty) for s in PARTS)


@pytest.fixture
def full_set(datasets_root: Path) -> Path:
    return datasets_root / "dre_ssod_sample"


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images a part, for tests that are about files."""
    monkeypatch.setattr(sample_set, "PARTS", SMALL)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def files_of(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_default_set_has_the_pinned_bytes(full_set: Path) -> None:
    hashes = {
        name: hashlib.sha256((full_set / "annotations" / name).read_bytes()).hexdigest()
        for name in SHA256_OF_ANNOTATIONS
    }
    assert hashes == SHA256_OF_ANNOTATIONS
    assert content_hash(full_set) == SHA256_OF_SEED_0


def test_description_names_version_seed_counts_and_hash(full_set: Path) -> None:
    assert read(full_set / "sample_set.json") == {
        "version": SAMPLE_SET_VERSION,
        "seed": 0,
        "images": {"labeled": 40, "unlabeled": 400, "val": 120},
        "sha256": SHA256_OF_SEED_0,
    }


def test_every_listed_image_exists_and_no_other_file(full_set: Path) -> None:
    expected = {"sample_set.json"}
    image_ids: list[int] = []
    for part in PARTS:
        content = read(full_set / "annotations" / part.annotation_file)
        assert len(content["images"]) == part.image_count
        image_ids += [image["id"] for image in content["images"]]
        expected |= {f"{part.name}/{image['file_name']}" for image in content["images"]}
        expected.add(f"annotations/{part.annotation_file}")
    assert set(files_of(full_set)) == expected
    assert len(set(image_ids)) == len(image_ids)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_annotations_are_valid_coco(full_set: Path, part: Part) -> None:
    content = read(full_set / "annotations" / part.annotation_file)
    assert [category["name"] for category in content["categories"]] == list(CLASS_NAMES)
    image_ids = {image["id"] for image in content["images"]}
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for annotation in content["annotations"]:
        assert annotation["image_id"] in image_ids
        assert 1 <= annotation["category_id"] <= len(CLASS_NAMES)
        x, y, width, height = annotation["bbox"]
        assert min(x, y) >= 0
        assert min(width, height) >= 7
        assert x + width <= WIDTH
        assert y + height <= HEIGHT
        assert 0 < annotation["area"] <= width * height
        assert all(float(4 * value).is_integer() for value in annotation["bbox"])


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_number_of_objects_and_balance_of_classes(full_set: Path, part: Part) -> None:
    content = read(full_set / "annotations" / part.annotation_file)
    per_image = Counter(annotation["image_id"] for annotation in content["annotations"])
    counts = [per_image[image["id"]] for image in content["images"]]
    assert max(counts) <= MAX_OBJECTS
    assert (min(counts) == 0) == part.allow_empty
    assert counts.count(0) < 0.12 * len(counts)
    assert 3.5 < np.mean(counts) < 5
    per_class = Counter(annotation["category_id"] for annotation in content["annotations"])
    share = len(content["annotations"]) / len(CLASS_NAMES)
    deviation = 4 * share**0.5
    assert all(abs(per_class[k + 1] - share) < deviation for k in range(len(CLASS_NAMES)))


def test_object_sizes_vary(full_set: Path) -> None:
    annotations = read(full_set / "annotations" / "unlabeled_truth.json")["annotations"]
    sides = np.sqrt([a["bbox"][2] * a["bbox"][3] for a in annotations])
    low, middle, high = np.percentile(sides, [5, 50, 95])
    assert low < 25
    assert 25 < middle < 45
    assert high > 50


def test_colour_says_nothing_about_the_class(full_set: Path) -> None:
    """Mean colours in the boxes differ between classes by chance only: 4 standard errors."""
    content = read(full_set / "annotations" / "unlabeled_truth.json")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    colors: dict[int, list[Any]] = {}
    for annotation in content["annotations"]:
        image = cv2.imread(str(full_set / "unlabeled" / names[annotation["image_id"]]))
        x, y, width, height = (int(value) for value in annotation["bbox"])
        patch = image[y : y + height, x : x + width].reshape(-1, 3)
        colors.setdefault(annotation["category_id"], []).append(patch.mean(axis=0))
    everything = np.concatenate([np.stack(values) for values in colors.values()])
    for values in colors.values():
        error = everything.std(axis=0) / len(values) ** 0.5
        assert (np.abs(np.mean(values, axis=0) - everything.mean(axis=0)) < 4 * error).all()


@pytest.mark.usefixtures("small_splits")
def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    for name, seed in (("first", 5), ("second", 5), ("other", 6)):
        generate_sample_set(tmp_path / name, seed)
    first, second, other = (files_of(tmp_path / name) for name in ("first", "second", "other"))
    assert first == second
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    images = [content for name, content in first.items() if name.endswith(".png")]
    assert len(set(images)) == len(images) == 9


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (150, 160), (437, 50)])
def test_png_round_trip_through_two_readers(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Sizes below, above and at (437 * 150 + 437 > 65535) the limit of one stored block."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    path.write_bytes(encode_png(image))
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], image)
    with Image.open(path) as opened:
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), image)


def test_stored_stream_of_exactly_one_full_block() -> None:
    data = bytes(range(255)) * 257
    assert len(data) == 65535
    stream = sample_set._stored_zlib(data)
    assert len(stream) == len(data) + 2 + 5 + 4
    assert zlib.decompress(stream) == data


@pytest.mark.usefixtures("small_splits")
def test_interrupted_generation_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes: Any = [sample_set.draw_scene(RandomStream(number), False) for number in range(4)]
    scenes.append(KeyboardInterrupt())
    monkeypatch.setattr(sample_set, "draw_scene", Mock(side_effect=scenes))
    with pytest.raises(KeyboardInterrupt):
        generate_sample_set(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_splits")
def test_interrupted_replacement_keeps_the_old_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "set"
    generate_sample_set(root, 1)
    before = files_of(root)
    monkeypatch.setattr(sample_set, "draw_scene", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ensure_sample_set(root, 2)
    assert files_of(root) == before
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.usefixtures("small_splits")
def test_ensure_generates_only_what_is_absent_or_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "deep" / "set"
    ensure_sample_set(root, 3)
    before = root.stat().st_ino
    ensure_sample_set(root, 3)
    assert root.stat().st_ino == before
    ensure_sample_set(root, 4)
    assert read(root / "sample_set.json")["seed"] == 4
    monkeypatch.setattr(sample_set, "SAMPLE_SET_VERSION", SAMPLE_SET_VERSION + 1)
    ensure_sample_set(root, 4)
    assert read(root / "sample_set.json")["version"] == SAMPLE_SET_VERSION + 1
    assert list(root.parent.iterdir()) == [root]


@pytest.mark.usefixtures("small_splits")
def test_generate_replaces_a_set_of_other_content(tmp_path: Path) -> None:
    generate_sample_set(tmp_path / "set")
    path = tmp_path / "set" / "sample_set.json"
    path.write_text(json.dumps({**read(path), "sha256": "0"}))
    generate_sample_set(tmp_path / "set")
    assert read(path)["sha256"] == content_hash(tmp_path / "set")


@pytest.mark.usefixtures("small_splits")
def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    ensure_sample_set(tmp_path)
    assert read(tmp_path / "sample_set.json")["sha256"] == content_hash(tmp_path)


@pytest.mark.usefixtures("small_splits")
def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    for seed in (0, 1):
        ensure_sample_set(tmp_path / "link", seed)
        assert read(tmp_path / "target" / "sample_set.json")["seed"] == seed
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("description", [None, "{", "[]", '{"version": 1}'])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, description: str | None) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    if description is not None:
        (tmp_path / "sample_set.json").write_text(description)
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match=r"is no sample set"):
        ensure_sample_set(tmp_path)
    assert files_of(tmp_path) == before


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("keep")
    with pytest.raises(FileExistsError, match=r"is no sample set"):
        ensure_sample_set(tmp_path / "set")


def _cut(root: Path) -> None:
    path = root / "annotations" / "labeled.json"
    content = read(path)
    del content["annotations"][::2]
    path.write_text(json.dumps(content))


def _flip(root: Path) -> None:
    path = root / "val" / "0001.png"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "half of the labels": _cut,
    "a bit of an image": _flip,
    "an image that is gone": lambda root: (root / "unlabeled" / "0002.png").unlink(),
    "an image more": lambda root: (root / "unlabeled" / "0003.png").write_bytes(b"mine"),
    "a folder that is gone": lambda root: (root / "val").rename(root / "value"),
}


@pytest.mark.usefixtures("small_splits")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_set_is_drawn_again_and_kept_aside(
    tmp_path: Path,
    damage: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = tmp_path / "set"
    generate_sample_set(root, 1)
    whole = files_of(root)
    damage(root)
    damaged = files_of(root)
    assert damaged != whole
    monkeypatch.setattr(sample_set, "_verified", set())
    with caplog.at_level(logging.WARNING):
        ensure_sample_set(root, 1)
    assert files_of(root) == whole
    (kept,) = set(tmp_path.iterdir()) - {root}
    assert files_of(kept) == damaged
    assert f"was damaged or changed: it is drawn again; what was there is now in {kept}" in (
        caplog.text
    )
    ensure_sample_set(root, 1)
    assert len(list(tmp_path.iterdir())) == 2


def test_negative_seed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seed is -1; it must be an integer of at least 0"):
        generate_sample_set(tmp_path / "set", -1)


def _generate_small(root: Path, seed: int) -> None:
    sample_set.PARTS = SMALL
    ensure_sample_set(root, seed)


def test_processes_may_generate_at_once(tmp_path: Path) -> None:
    root = tmp_path / "set"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_generate_small, args=(root, 0)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert list(tmp_path.iterdir()) == [root]
    assert len(files_of(root)) == 9 + 3 + 1
