"""Which training images keep their labels, and the two pools of images that follow."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from dre_ssod.data.records import drop_boxes_outside
from dre_ssod.data.sources.catalog import (
    class_names,
    load_one_labeled,
    load_unlabeled,
    strip_labels,
)
from dre_ssod.data.splits.files import (
    SavedSplit,
    check_known,
    hash_ids,
    read_ids,
    read_indices,
)
from dre_ssod.errors import SourceError

logger = logging.getLogger(__name__)

NamedRecord = tuple[str, dict[str, Any]]
"""A record with annotations, and the id that splits know its image by."""


@dataclass(frozen=True)
class Split:
    """Which images of a set are labeled: a draw named by percent and fold, or a published choice.

    Attributes:
        percent: share of the images that stays labeled, in (0, 100].
        fold: number of the draw, from 0; None for ids that :func:`draw_split` did not choose.
        labeled_ids: ids of the labeled images, sorted, each ``"{number of the set}/{image id}"``.
        total: number of images that were chosen from.
        origin: "draw", or which file the choice was read from.
    """

    percent: float
    fold: int | None
    labeled_ids: tuple[str, ...]
    total: int
    origin: str = "draw"

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the sorted ids, joined by newlines, in UTF-8."""
        return hash_ids(self.labeled_ids)

    def save(self, path: str | Path) -> None:
        """Write percent, fold, counts, origin, hash and ids as JSON; ``load_split`` reads it."""
        content = {
            "percent": self.percent,
            "fold": self.fold,
            "labeled": len(self.labeled_ids),
            "total": self.total,
            "origin": self.origin,
            "sha256": self.sha256,
            "labeled_ids": list(self.labeled_ids),
        }
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def record_split(split: Split | None, path: Path, resumed: bool) -> None:
    """Save the split of a run, or check that a resumed run goes on with the one it started with.

    Args:
        split: which images are labeled now; None for all.
        path: of the run's ``split.json``, which says so for its start; there is none for all.
        resumed: whether the run has iterations behind it.

    Raises:
        SourceError: if a resumed run would go on with other labeled images.
    """
    if resumed and path.exists():
        saved = read_ids(path)
        ids = saved.labeled_ids if isinstance(saved, SavedSplit) else saved
        if split is None or split.sha256 != hash_ids(ids):
            raise SourceError(
                f"{path}: the run was started with other labeled images. Resume it with the "
                "settings of DATASETS in its config.yaml, or start another run in another "
                "OUTPUT_DIR"
            )
        return
    path.unlink(missing_ok=True)
    if split is not None:
        split.save(path)


@dataclass(frozen=True)
class Pools:
    """What training draws from.

    Attributes:
        labeled: records in Detectron2's format, with ``annotations``.
        unlabeled: records with ``sources.UNLABELED_KEYS`` only.
        classes: class names in the order of their indices.
        split: the choice behind the pools; None if all of the training images are labeled.
        sets: ("labeled" or "unlabeled", name, images) of each set, in the order of the records.
    """

    labeled: list[dict[str, Any]]
    unlabeled: list[dict[str, Any]]
    classes: list[str]
    split: Split | None
    sets: tuple[tuple[str, str, int], ...]


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
    _check_different(ids)
    # str() gives the decimal number that was written: 29 % of 100 is 29, which floats make 28.
    count = math.floor(Fraction(str(percent)) * len(ids) / 100)
    if count == 0:
        least = f"; use at least {100 / len(ids):.3g} percent" if ids else ""
        raise SourceError(
            f"DATASETS.LABELED_PERCENT {percent} of {len(ids)} images is less than one image{least}"
        )
    ranked = sorted(ids, key=lambda name: hashlib.sha256(f"{fold}:{name}".encode()).digest())
    return Split(float(percent), fold, tuple(sorted(ranked[:count])), len(ids))


def load_split(path: str | Path, ids: Sequence[str]) -> Split:
    """Read which images are labeled from a run's ``split.json`` or a JSON list of image ids.

    Args:
        path: of the file.
        ids: the ids of all the images to choose from, as in :attr:`Split.labeled_ids`. A list in
            the file may leave out the number of the set where there is only one.

    Raises:
        SourceError: if the file cannot be read, its hash is wrong, or it does not fit these images.
    """
    path = Path(path)
    _check_different(ids)
    content = read_ids(path)
    example = next(iter(sorted(ids)), "")
    if isinstance(content, SavedSplit):
        check_known(content.labeled_ids, ids, path, f"Ids of this set look like {example!r}")
        if content.total != len(ids):
            raise SourceError(
                f"{path}: was made from {content.total} images, but this set has {len(ids)}. To "
                "use its ids all the same, make a JSON list of them"
            )
        names, percent, fold = content.labeled_ids, content.percent, content.fold
        return Split(percent, fold, tuple(sorted(names)), content.total, content.origin)
    if any(not name.startswith("0/") for name in ids):
        check_known(content, ids, path, f"Ids of these sets look like {example!r}")
        return _chosen(content, len(ids), path.name)
    example = example.partition("/")[2]
    own_ids = [name.partition("/")[2] for name in ids]
    check_known(content, own_ids, path, f"Ids of this set look like {example!r}")
    return _chosen([f"0/{name}" for name in content], len(ids), path.name)


def load_unbiased_teacher_split(
    path: str | Path, percent: float, seed: int, records: Sequence[NamedRecord]
) -> Split:
    """The labeled images that Unbiased Teacher's file of indices names.

    Its indices count the images that have boxes (crowd regions are none), in the order in which
    Detectron2 reads the sets. The other images, which Unbiased Teacher leaves out altogether, are
    unlabeled here.

    Args:
        path: of a JSON file ``{percent: {seed: [index, ...]}}``.
        percent, seed: which of its lists is used.
        records: of :func:`load_named`.

    Raises:
        SourceError: if the file cannot be read, or the indices do not fit the records.
    """
    _check_different([name for name, _ in records])
    # Detectron2 keeps the boxes without area that this project's sources drop.
    with_boxes = [
        name for name, record in records if _count_boxes(record) or record.get("dropped_boxes")
    ]
    chosen = [with_boxes[i] for i in read_indices(Path(path), percent, seed, len(with_boxes))]
    origin = f"{Path(path).name}, percent {percent:g}, seed {seed}"
    return _chosen(chosen, len(records), origin)


def load_named(train: Sequence[str]) -> list[NamedRecord]:
    """The records of all the sets, one after the other.

    Raises:
        SourceError: if a set cannot be read.
    """
    return [
        (f"{index}/{record['image_id']}", record)
        for index, name in enumerate(train)
        for record in load_one_labeled(name)
    ]


def build_pools(
    train: Sequence[str],
    unlabeled: Sequence[str],
    percent: float = 100.0,
    fold: int = 0,
    filter_empty: bool = True,
    split_file: str = "",
) -> Pools:
    """Load ``DATASETS.TRAIN`` and ``DATASETS.UNLABELED`` and choose the labeled images.

    Of the images in ``train``, with or without boxes, ``percent`` or those in ``split_file`` stay
    labeled; the others lose their annotations and go to the unlabeled pool, before the images of
    ``unlabeled``.

    Args:
        train: names or URIs of the labeled sets.
        unlabeled: names or URIs of further sets; annotations they may have are ignored.
        percent: ``DATASETS.LABELED_PERCENT``, in (0, 100].
        fold: ``DATASETS.LABELED_FOLD``, from 0.
        filter_empty: ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``: after the choice, remove labeled
            images that have no boxes but crowds.
        split_file: ``DATASETS.SPLIT_FILE``, in place of ``percent`` and ``fold``.

    Raises:
        SourceError: if a set or the split cannot be read, the draw is impossible or no labeled box
            is left.
    """
    classes = class_names(train)
    records = load_named(train)
    ids = [name for name, _ in records]
    split = load_split(split_file, ids) if split_file else draw_split(ids, percent, fold)
    chosen = set(split.labeled_ids)
    labeled = drop_boxes_outside(record for name, record in records if name in chosen)
    rest = [record for name, record in records if name not in chosen]
    with_boxes = [record for record in labeled if _count_boxes(record)]
    if not with_boxes:
        remedy = (
            f"use another DATASETS.SPLIT_FILE ({split_file})"
            if split_file
            else f"raise DATASETS.LABELED_PERCENT ({percent}), change LABELED_FOLD ({fold})"
        )
        raise SourceError(
            f"none of the {len(labeled)} labeled images of {', '.join(train)} has a box; {remedy} "
            "or check the annotations"
        )
    if filter_empty:
        removed = len(labeled) - len(with_boxes)
        labeled = with_boxes
        logger.info(f"Removed {removed} labeled images without boxes; {len(labeled)} are left")
    more = [(name, load_unlabeled([name])) for name in unlabeled]
    pool = strip_labels(rest) + [record for _, found in more for record in found]
    labeled_ids = [n for n, r in records if n in chosen and (_count_boxes(r) or not filter_empty)]
    sets = [
        *_sizes("labeled", train, labeled_ids),
        *_sizes("unlabeled", train, [name for name in ids if name not in chosen]),
        *(("unlabeled", name, len(found)) for name, found in more),
    ]
    boxes = sum(map(_count_boxes, labeled))
    logger.info(f"{len(labeled)} labeled images with {boxes} boxes, {len(pool)} unlabeled images")
    drawn = split if split_file or percent < 100 else None
    return Pools(labeled, pool, classes, drawn, tuple(sets))


def _sizes(role: str, train: Sequence[str], ids: Sequence[str]) -> list[tuple[str, str, int]]:
    counts = Counter(int(name.partition("/")[0]) for name in ids)
    return [(role, train[index], count) for index, count in sorted(counts.items())]


def _check_different(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        repeated = next(name for index, name in enumerate(ids) if name in ids[:index])
        raise SourceError(f"the image id {repeated!r} occurs twice; ids must differ to be drawn")


def _chosen(names: Sequence[str], total: int, origin: str) -> Split:
    """A choice that is no draw of this project's."""
    return Split(100.0 * len(names) / total, None, tuple(sorted(names)), total, origin)


def _count_boxes(record: dict[str, Any]) -> int:
    """Boxes of a record that are trained on: all but crowds."""
    return sum(1 for item in record["annotations"] if not item.get("iscrowd", 0))
