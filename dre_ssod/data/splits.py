"""Which training images keep their labels, and the two pools of images that follow."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from dre_ssod.data.sources import class_names, load_one_labeled, load_unlabeled, strip_labels
from dre_ssod.data.uri import SourceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """A draw of labeled images, named by percent and fold.

    Attributes:
        percent: share of the images that stays labeled, in (0, 100].
        fold: number of the draw, from 0.
        labeled_ids: ids of the labeled images, sorted.
        total: number of images that were drawn from.
    """

    percent: float
    fold: int
    labeled_ids: tuple[str, ...]
    total: int

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the sorted ids, joined by newlines, in UTF-8."""
        return hashlib.sha256("\n".join(sorted(self.labeled_ids)).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write percent, fold, counts, hash and ids as JSON."""
        content = {
            "percent": self.percent,
            "fold": self.fold,
            "labeled": len(self.labeled_ids),
            "total": self.total,
            "sha256": self.sha256,
            "labeled_ids": list(self.labeled_ids),
        }
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Pools:
    """What training draws from.

    Attributes:
        labeled: records in Detectron2's format, with ``annotations``.
        unlabeled: records with ``sources.UNLABELED_KEYS`` only.
        classes: class names in the order of their indices.
        split: the draw behind the pools; None if all of the training images are labeled.
    """

    labeled: list[dict[str, Any]]
    unlabeled: list[dict[str, Any]]
    classes: list[str]
    split: Split | None


def draw_split(ids: Sequence[str], percent: float, fold: int) -> Split:
    """Draw ``floor(percent / 100 * len(ids))`` of the ids without replacement.

    The ids whose ``"{fold}:{id}"`` has the lowest SHA-256 are taken. The draw depends neither on
    the order of the ids nor on the machine, and within a fold a smaller percentage is part of a
    larger one.

    Args:
        ids: one different string for each image.
        percent: in (0, 100].
        fold: from 0.

    Raises:
        SourceError: if an argument is out of its range, ids repeat, or no image would be drawn.
    """
    if not 0 < percent <= 100:
        raise SourceError(f"DATASETS.LABELED_PERCENT must be in (0, 100], is {percent}")
    if fold < 0:
        raise SourceError(f"DATASETS.LABELED_FOLD must be 0 or more, is {fold}")
    if len(set(ids)) < len(ids):
        repeated = next(name for index, name in enumerate(ids) if name in ids[:index])
        raise SourceError(f"the image id {repeated!r} occurs twice; ids must differ to be drawn")
    # str() gives the decimal number that was written: 29 % of 100 is 29, which floats make 28.
    count = math.floor(Fraction(str(percent)) * len(ids) / 100)
    if count == 0:
        least = f"; use at least {100 / len(ids):.3g} percent" if ids else ""
        raise SourceError(
            f"DATASETS.LABELED_PERCENT {percent} of {len(ids)} images is less than one image{least}"
        )
    ranked = sorted(ids, key=lambda name: hashlib.sha256(f"{fold}:{name}".encode()).digest())
    return Split(float(percent), fold, tuple(sorted(ranked[:count])), len(ids))


def build_pools(
    train: Sequence[str],
    unlabeled: Sequence[str],
    percent: float = 100.0,
    fold: int = 0,
    filter_empty: bool = True,
) -> Pools:
    """Load ``DATASETS.TRAIN`` and ``DATASETS.UNLABELED`` and draw the labeled share.

    Of the images in ``train``, with or without boxes, ``percent`` stay labeled; the others lose
    their annotations and go to the unlabeled pool, before the images of ``unlabeled``.

    Args:
        train: names or URIs of the labeled sets.
        unlabeled: names or URIs of further sets; annotations they may have are ignored.
        percent: ``DATASETS.LABELED_PERCENT``, in (0, 100].
        fold: ``DATASETS.LABELED_FOLD``, from 0.
        filter_empty: ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``: after the draw, remove labeled images
            that have no boxes but crowds.

    Raises:
        SourceError: if a set cannot be read, the draw is impossible or no labeled box is left.
    """
    classes = class_names(train)
    records = [
        (f"{index}/{record['image_id']}", record)
        for index, name in enumerate(train)
        for record in load_one_labeled(name)
    ]
    split = draw_split([name for name, _ in records], percent, fold)
    chosen = set(split.labeled_ids)
    labeled = [record for name, record in records if name in chosen]
    rest = [record for name, record in records if name not in chosen]
    with_boxes = [record for record in labeled if _count_boxes(record)]
    if not with_boxes:
        raise SourceError(
            f"none of the {len(labeled)} labeled images of {', '.join(train)} has a box; raise "
            f"DATASETS.LABELED_PERCENT ({percent}), change DATASETS.LABELED_FOLD ({fold}) or check "
            "the annotations"
        )
    if filter_empty:
        removed = len(labeled) - len(with_boxes)
        labeled = with_boxes
        logger.info(f"Removed {removed} labeled images without boxes; {len(labeled)} are left")
    pool = strip_labels(rest) + load_unlabeled(unlabeled)
    boxes = sum(map(_count_boxes, labeled))
    logger.info(f"{len(labeled)} labeled images with {boxes} boxes, {len(pool)} unlabeled images")
    return Pools(labeled, pool, classes, split if percent < 100 else None)


def _count_boxes(record: dict[str, Any]) -> int:
    """Boxes of a record that are trained on: all but crowds."""
    return sum(1 for item in record["annotations"] if not item.get("iscrowd", 0))
