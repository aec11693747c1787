"""The two pools of images that training draws from."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dre_ssod.data.records import identify_files, join, objects_of
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import (
    NamedRecord,
    class_names,
    load_named,
    load_one_labeled,
    load_unlabeled,
    strip_labels,
)
from dre_ssod.data.sources.shards import ShardRecords
from dre_ssod.data.splits.files import load_split
from dre_ssod.data.splits.split import Split, draw_split
from dre_ssod.data.usable import why_no_boxes
from dre_ssod.errors import SourceError, counted

logger = logging.getLogger(__name__)

_REST = "the unlabeled part of DATASETS.TRAIN"


@dataclass(frozen=True)
class Pools:
    """What training draws from.

    Attributes:
        labeled: records in Detectron2's format, with ``annotations``.
        unlabeled: records with ``catalog.UNLABELED_KEYS`` only, which may be more than fit into
            memory: whoever goes through all of them makes each.
        classes: class names in the order of their indices.
        split: the choice behind the pools; None if all of the training images are labeled.
        sets: ("labeled" or "unlabeled", name, images) of each set, in the order of the records.
        empty: labeled images without boxes, which are not among ``labeled`` but count as labeled
            wherever boxes are counted per image.
    """

    labeled: list[dict[str, Any]]
    unlabeled: Sequence[dict[str, Any]]
    classes: list[str]
    split: Split | None
    sets: tuple[tuple[str, str, int], ...]
    empty: int = 0

    @property
    def looked_at(self) -> int:
        """Number of labeled images, with boxes or without."""
        return len(self.labeled) + self.empty

    def without_unlabeled(self) -> Pools:
        """The same choice, for a run that has no use for the other images."""
        sets = tuple(entry for entry in self.sets if entry[0] == "labeled")
        return replace(self, unlabeled=[], sets=sets)


def build_pools(
    train: Sequence[str],
    unlabeled: Sequence[str],
    percent: float = 100.0,
    fold: int = 0,
    filter_empty: bool = True,
    split_file: str = "",
    test: Sequence[str] = (),
    overlap: bool = False,
    unreadable: float = 0.0,
) -> Pools:
    """Load ``DATASETS.TRAIN`` and ``DATASETS.UNLABELED`` and choose the labeled images.

    Of the images in ``train``, with or without boxes, ``percent`` or those in ``split_file`` stay
    labeled; the others lose their annotations and go to the unlabeled pool, before the images of
    ``unlabeled``. Of these, images that ``train`` or ``test`` have as well are left out.

    Args:
        train: names or URIs of the labeled sets.
        unlabeled: names or URIs of further sets; annotations they may have are ignored.
        percent: ``DATASETS.LABELED_PERCENT``, in (0, 100].
        fold: ``DATASETS.LABELED_FOLD``, from 0.
        filter_empty: ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``: after the choice, remove labeled
            images that have no boxes but crowds.
        split_file: ``DATASETS.SPLIT_FILE``, in place of ``percent`` and ``fold``.
        test: names or URIs of the sets to test on.
        overlap: ``DATASETS.UNLABELED_OVERLAP``: images of ``unlabeled`` that ``train`` has as well
            stay.
        unreadable: ``DATALOADER.MAX_UNREADABLE_SHARE``: what of the shards of an unlabeled set may
            be damaged.

    Raises:
        SourceError: if a set or the split cannot be read, the draw is impossible, no labeled box is
            left, or nothing of an unlabeled set.
    """
    classes = class_names(train)
    records = load_named(train)
    ids = [name for name, _ in records]
    split = load_split(split_file, ids) if split_file else draw_split(ids, percent, fold)
    chosen = set(split.labeled_ids)
    kept = [(name, record) for name, record in records if name in chosen]
    rest = [(name, record) for name, record in records if name not in chosen]
    labeled = [(name, record) for name, record in kept if objects_of(record)]
    if not labeled:
        remedy = (
            f"use another DATASETS.SPLIT_FILE ({split_file})"
            if split_file
            else f"raise DATASETS.LABELED_PERCENT ({percent}), change LABELED_FOLD ({fold})"
        )
        raise SourceError(
            f"none of the {len(kept)} labeled images of {', '.join(train)} has a box"
            f"{why_no_boxes([record for _, record in kept])}; {remedy} or check the annotations"
        )
    empty = 0
    if filter_empty:
        empty = len(kept) - len(labeled)
        logger.info("Removed %d labeled images without boxes; %d are left", empty, len(labeled))
    else:
        labeled = kept
    _warn_of_repeats(train, [*labeled, *rest])
    known = [] if overlap else [record for _, record in records]
    if unlabeled:
        known += [record for name in test for record in load_one_labeled(name, Remarks())]
    more = [(name, _others(name, known, unreadable)) for name in unlabeled]
    unlabeled_rest = strip_labels([record for _, record in rest])
    _warn_of_doubles([*([(_REST, unlabeled_rest)] if overlap and rest else []), *more])
    pools = Pools(
        labeled=[record for _, record in labeled],
        unlabeled=join([unlabeled_rest, *(found for _, found in more)]),
        classes=classes,
        split=split if split_file or percent < 100 else None,
        sets=(
            *_sizes("labeled", train, labeled),
            *_sizes("unlabeled", train, rest),
            *(("unlabeled", name, len(found)) for name, found in more),
        ),
        empty=empty,
    )
    logger.info(
        "%s with %s, %s",
        counted(len(pools.labeled), "labeled image"),
        counted(sum(len(objects_of(record)) for record in pools.labeled), "box"),
        counted(len(pools.unlabeled), "unlabeled image"),
    )
    return pools


def without_known(
    records: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]]
) -> Sequence[dict[str, Any]]:
    """The records whose image file is none of those of ``known``, whatever links lead to it."""
    if isinstance(records, ShardRecords):
        return records.without(record["file_name"] for record in known)
    identify = identify_files()
    names = {record["file_name"] for record in known}
    taken = set(map(identify, names))
    return [
        record
        for record in records
        if record["file_name"] not in names and identify(record["file_name"]) not in taken
    ]


def _others(
    name: str, known: Sequence[dict[str, Any]], unreadable: float
) -> Sequence[dict[str, Any]]:
    """The images of an unlabeled set that are neither labeled nor tested on.

    Raises:
        SourceError: if there is none, or more of its shards is damaged than a share.
    """
    records = load_unlabeled([name])
    if isinstance(records, ShardRecords) and records.lost > unreadable:
        raise SourceError(
            f"{name}: {100 * records.lost:.3g} % of the shards cannot be read, more than "
            f"DATALOADER.MAX_UNREADABLE_SHARE {unreadable:g} allows; the log names the first, and "
            "tools/check_dataset.py all. Pack them again, or raise it"
        )
    others = without_known(records, known)
    if not others:
        raise SourceError(
            f"{name}: all of its {len(records)} images are in DATASETS.TRAIN or DATASETS.TEST as "
            "well, so none is left to be used without labels; name other images, or set "
            "DATASETS.UNLABELED_OVERLAP True to use labeled ones both ways"
            f"{_why_known(records, known)}"
        )
    if len(others) < len(records):
        left_out = len(records) - len(others)
        logger.info("%s: %d images left out that are labeled or tested on", name, left_out)
    return others


def _why_known(records: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]]) -> str:
    """What can be done if images count as labeled and empty, as the rest of a sentence, or ""."""
    drawn = [r for r in known if r["annotations"] or r.get("dropped_boxes")]
    empty = len(without_known(records, drawn))
    return (
        f". {empty:,} of these have no box there: if nobody has looked at them, write "
        "empty=unlabeled into the URI of the set that lists them (coco://, or cvat://, via:// and "
        "yolo:// without splits)"
        if empty
        else ""
    )


def _warn_of_repeats(train: Sequence[str], records: Sequence[NamedRecord]) -> None:
    """Say which images two sets of DATASETS.TRAIN have; a set may be named twice on purpose."""
    if len(set(train)) < 2:
        return
    owners = (train[int(name.partition("/")[0])] for name, _ in records)
    files = (record["file_name"] for _, record in records)
    for sets, names in _common_files(zip(owners, files, strict=True)).items():
        logger.warning(
            "DATASETS.TRAIN: %s and %s have %s in common, such as %s. Training takes them for "
            "different images, each with the labels of its set, or without where only a part "
            "stays labeled. Leave them out of one of the sets (tools/check_dataset.py names "
            "them); for images that shall count twice, name one set twice.",
            *sets,
            counted(len(names), "image"),
            next(iter(names.values())),
        )


def _warn_of_doubles(sets: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> None:
    """Say which unlabeled images count twice; a set may be named twice on purpose.

    Leaving them out would change the images of runs that are resumed. Shards are not looked into.
    """
    for name, records in dict(sets).items():
        if isinstance(records, ShardRecords):
            continue
        counts = Counter(record["file_name"] for record in records)
        if twice := [file for file, count in counts.items() if count > 1]:
            logger.warning(
                "DATASETS.UNLABELED: %s lists %s more than once, such as %s. Each entry counts "
                "among the unlabeled images: list an image once.",
                *(name, counted(len(twice), "image"), twice[0]),
            )
    if len({name for name, _ in sets}) < 2:
        return
    files = (
        (name, record["file_name"])
        for name, records in sets
        if not isinstance(records, ShardRecords)
        for record in records
    )
    for (first, other), names in _common_files(files).items():
        logger.warning(
            "DATASETS.UNLABELED: %s and %s have %s in common, such as %s. Each counts twice among "
            "the unlabeled images. %s.",
            first,
            other,
            counted(len(names), "image"),
            next(iter(names.values())),
            "Set DATASETS.UNLABELED_OVERLAP False; to use labeled images both ways, name in "
            "DATASETS.TRAIN the labeled ones alone, as labeled.json of tools/make_split.py has them"
            if first == _REST
            else "Leave one of the sets out, or these images out of one; for images that shall "
            "count twice, name one set twice",
        )


def _common_files(files: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict[str, str]]:
    """Of pairs of a set and a file: by the first set that has a file and another, the files."""
    identify = identify_files()
    first: dict[str, str] = {}
    common: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for own, file_name in files:
        identity = identify(file_name)
        if first.setdefault(identity, own) != own:
            common[first[identity], own][identity] = file_name
    return common


def _sizes(
    role: str, train: Sequence[str], records: Sequence[NamedRecord]
) -> list[tuple[str, str, int]]:
    counts = Counter(int(name.partition("/")[0]) for name, _ in records)
    return [(role, train[index], count) for index, count in sorted(counts.items())]
