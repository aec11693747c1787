"""Splits by numbers: so many images, so many labels of each class, so many images for a test.

All draw in the order that a draw by percent has, so that 15 images of a fold are part of its 20.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from dre_ssod.data.records import objects_of
from dre_ssod.data.sources.catalog import NamedRecord
from dre_ssod.data.splits.split import Split, check_different, ranked
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place, place_of


def draw_images(ids: Sequence[str], count: int, fold: int) -> Split:
    """The first ``count`` images of a fold.

    Raises:
        SourceError: if there are fewer, or ``count`` is less than 1.
    """
    check_different(ids)
    if not 1 <= count <= len(ids):
        raise SourceError(f"--labeled is {count}; there are {len(ids)} images to draw from")
    return Split.of_chosen(ranked(ids, fold)[:count], len(ids), f"{count} images, fold {fold}")


def draw_per_class(
    records: Sequence[NamedRecord], classes: Sequence[str], count: int, fold: int
) -> Split:
    """Images with at least ``count`` labeled objects of each class.

    In the order of the fold, an image is taken if it has an object of a class that has fewer than
    ``count`` so far. All objects of an image are labeled, so frequent classes get more.

    Args:
        classes: names, by ``category_id``.

    Raises:
        SourceError: if a class has fewer objects altogether, or ``count`` is less than 1.
    """
    check_different([name for name, _ in records])
    objects = {
        name: Counter(int(item["category_id"]) for item in objects_of(record))
        for name, record in records
    }
    there: Counter[int] = sum(objects.values(), Counter())
    for index, label in enumerate(classes):
        if not 1 <= count <= there[index]:
            raise SourceError(
                f"--per-class is {count}, but the class {label!r} has {there[index]} objects"
            )
    taken: list[str] = []
    have: Counter[int] = Counter()
    for name in ranked(objects, fold):
        if any(have[index] < count for index in objects[name]):
            taken.append(name)
            have += objects[name]
    return Split.of_chosen(taken, len(records), f"{count} objects of each class, fold {fold}")


def hold_out(
    records: Sequence[NamedRecord], count: int, fold: int, others: Sequence[str] = ()
) -> set[str]:
    """The ids of ``count`` images to measure on; files with the same bytes stay together.

    Images without a copy are drawn first. Where those do not suffice there may be fewer.

    Args:
        others: files of further images, which are trained on whatever is drawn; an image that has a
            copy among them is not.

    Raises:
        SourceError: if there are not more images, ``count`` is less than 1, or a file cannot be
            read.
    """
    if not 1 <= count < len(records):
        raise SourceError(
            f"--val is {count}; it must be at least 1 and leave some of the {len(records)} images"
        )
    # Equal pictures on both sides would be measured by heart.
    groups: dict[str, list[str]] = {}
    for name, record in records:
        groups.setdefault(_digest(place_of(record["file_name"])), []).append(name)
    trained_on = set(_digests_of_copies(others, [record["file_name"] for _, record in records]))
    by_first = {min(group): group for key, group in groups.items() if key not in trained_on}
    chosen: set[str] = set()
    # Sorting keeps the order of the draw among those of one size.
    for first in sorted(ranked(by_first, f"val:{fold}"), key=lambda name: len(by_first[name])):
        if len(chosen) + len(by_first[first]) <= count:
            chosen.update(by_first[first])
    if not chosen:
        unlabeled = ", or one among those without labels" if others else ""
        raise SourceError(
            f"--val is {count}, but each image has more copies than that{unlabeled}; remove copies "
            "(tools/check_dataset.py names them)"
        )
    return chosen


def objects_by_class(
    records: Sequence[NamedRecord], chosen: Collection[str], classes: Sequence[str]
) -> dict[str, int]:
    """How many objects of each class the chosen images have."""
    found = Counter(
        int(item["category_id"])
        for name, record in records
        if name in chosen
        for item in objects_of(record)
    )
    return {label: found[index] for index, label in enumerate(classes)}


def _digests_of_copies(others: Sequence[str], files: Sequence[str]) -> Iterator[str]:
    """Digests of all the others that may be a copy of a file; most are told by their size alone.

    What is not there is nobody's copy.
    """
    sizes = set(filter(None, map(_size, files)))
    for file in others:
        if _size(file) in sizes:
            yield _digest(place_of(file))


def _size(file: str) -> int | None:
    """Bytes of a file of this machine; None if there is none."""
    try:
        return os.stat(file).st_size
    except OSError:
        return None


def _digest(path: Place) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
