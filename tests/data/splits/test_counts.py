"""Splits by numbers of images, of labels per class, and of images to measure on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from detectron2.structures import BoxMode

from dre_ssod.data.splits.counts import draw_images, draw_per_class, hold_out, objects_by_class
from dre_ssod.data.splits.split import draw_split
from dre_ssod.errors import SourceError

CLASSES = ("often", "seldom")


def record(number: int, *categories: int, crowd: bool = False) -> tuple[str, dict[str, Any]]:
    box = {"bbox": [0, 0, 4, 4], "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": int(crowd)}
    objects = [{**box, "category_id": category} for category in categories]
    return f"0/{number}", {"image_id": number, "annotations": objects}


RECORDS = [record(n, *([0, 0, 1] if n % 10 == 0 else [0])) for n in range(60)]
IDS = [name for name, _ in RECORDS]


def test_a_number_of_images_is_the_draw_of_the_same_share() -> None:
    assert draw_images(IDS, 15, 3).labeled_ids == draw_split(IDS, 25.0, 3).labeled_ids
    assert set(draw_images(IDS, 5, 3).labeled_ids) < set(draw_images(IDS, 15, 3).labeled_ids)


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("fold", range(3))
def test_each_class_gets_its_labels_and_no_image_is_in_vain(count: int, fold: int) -> None:
    split = draw_per_class(RECORDS, CLASSES, count, fold)
    found = objects_by_class(RECORDS, split.labeled_ids, CLASSES)
    assert min(found.values()) >= count
    # Each image brings one of the rare class, or came before the frequent one had enough.
    rare = [name for name in split.labeled_ids if int(name[2:]) % 10 == 0]
    assert len(rare) == count
    assert len(split.labeled_ids) - len(rare) <= count
    assert split.total == 60


def test_what_cannot_be_reached_is_refused_and_crowds_are_no_labels() -> None:
    with pytest.raises(SourceError, match="--per-class is 7, but the class 'seldom' has 6 objects"):
        draw_per_class(RECORDS, CLASSES, 7, 0)
    with pytest.raises(SourceError, match="the class 'seldom' has 6 objects"):
        draw_per_class([*RECORDS, record(99, 1, crowd=True)], CLASSES, 7, 0)
    for count in (0, 61):
        with pytest.raises(SourceError, match=f"--labeled is {count}; there are 60 images"):
            draw_images(IDS, count, 0)


def test_copies_are_held_out_together(tmp_path: Path) -> None:
    """Of ten pictures, each once, twice or thrice: what is measured on is not trained on."""
    records = []
    for picture in range(10):
        for copy in range(1 + picture % 3):
            path = tmp_path / f"{picture}_{copy}.png"
            path.write_bytes(f"picture {picture}".encode())
            records.append((f"0/{path.stem}", {"file_name": str(path)}))
    sides: Counter[int] = Counter()
    for fold in range(8):
        held_out = hold_out(records, 6, fold)
        assert len(held_out) == 6
        # The four that are there once, and a pair.
        assert sum(int(name[2]) % 3 == 0 for name in held_out) == 4
        kept = {name for name, _ in records} - held_out
        assert not {name[2] for name in held_out} & {name[2] for name in kept}
        sides.update(int(name[2]) for name in held_out)
    # Another fold, another pair.
    assert len(sides) > 5
    twins = [(f"0/{name}", {"file_name": str(tmp_path / "1_0.png")}) for name in "abc"]
    with pytest.raises(SourceError, match="--val is 2, but each image has more copies than that"):
        hold_out(twins, 2, 0)
    with pytest.raises(SourceError, match="leave some of the 3 images"):
        hold_out(twins, 3, 0)
    with pytest.raises(SourceError, match=r"gone\.png: cannot be read"):
        hold_out([*twins, ("0/d", {"file_name": str(tmp_path / "gone.png")})], 3, 0)
