"""What a record in Detectron2's format says: its image's size, its boxes, and which of them count.

A record is the dict of one image with ``file_name`` and ``image_id``; of a labeled image also with
``annotations``, a dict for each object with ``bbox``, ``bbox_mode``, ``category_id`` and possibly
``iscrowd``. What these entries mean is asked here and nowhere else.
"""

from __future__ import annotations

import itertools
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from detectron2.structures import BoxMode

from dre_ssod.errors import SourceError
from dre_ssod.stores import Piece, is_address, is_piece

Corners = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels."""


def is_crowd(annotation: dict[str, Any]) -> bool:
    """Whether an object is a region of many, which is evaluated on but not trained on."""
    return bool(annotation.get("iscrowd", 0))


def objects_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations of a record that are trained on: all but crowd regions."""
    return [item for item in record["annotations"] if not is_crowd(item)]


def corners(annotation: dict[str, Any]) -> Corners:
    """The corners of an object's box, whatever its ``bbox_mode`` is."""
    mode = annotation["bbox_mode"]
    x1, y1, x2, y2 = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
    return float(x1), float(y1), float(x2), float(y2)


def xywh(annotation: dict[str, Any]) -> list[float]:
    """(x, y, width, height) of an object's box, to the last digit where it is written so."""
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        return [float(value) for value in annotation["bbox"]]
    x1, y1, x2, y2 = corners(annotation)
    return [x1, y1, x2 - x1, y2 - y1]


def image_size(record: dict[str, Any]) -> tuple[int, int]:
    """(width, height) that a record states, in pixels.

    Raises:
        SourceError: if it does not.
    """
    try:
        return int(record["width"]), int(record["height"])
    except KeyError as error:
        raise SourceError(
            f"{record['file_name']}: the dataset does not say the image's {error.args[0]}"
        ) from error


class Joined(Sequence[dict[str, Any]]):
    """Records of several sequences, one after the other, without a copy."""

    def __init__(self, parts: Sequence[Sequence[dict[str, Any]]]) -> None:
        self.parts = [part for part in parts if part]
        self._ends = list(itertools.accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Sequence[dict[str, Any]]:
        """A record, or those of a slice: one of the parts where it is just that, else a list."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            for part, end in zip(self.parts, self._ends, strict=True):
                if (start, stop, step) == (end - len(part), end, 1):
                    return part
            return [self[position] for position in range(start, stop, step)]
        position = range(len(self))[index]
        number = bisect_right(self._ends, position)
        part = self.parts[number]
        return part[position - self._ends[number] + len(part)]


def join(parts: Sequence[Sequence[dict[str, Any]]]) -> Sequence[dict[str, Any]]:
    """Records of several sequences: a list where all of them are lists."""
    if all(isinstance(part, list) for part in parts):
        return [record for part in parts for record in part]
    return Joined(parts)


@dataclass(frozen=True)
class BoxTable:
    """The boxes of a set, one row per box, R boxes, in the order of the records.

    Attributes:
        corners: (R, 4) float64, (x1, y1, x2, y2) in pixels; not checked.
        record: (R,) int64, index of the record that the box belongs to.
        category: (R,) int64, index of the class.
        crowd: (R,) bool, a crowd region, which is not trained on.
    """

    corners: npt.NDArray[np.float64]
    record: npt.NDArray[np.int64]
    category: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]


def make_table(records: Sequence[dict[str, Any]]) -> BoxTable:
    """The boxes of all the records, of whatever ``bbox_mode``; absent ``annotations`` are none."""
    counts = [len(record.get("annotations", ())) for record in records]
    items = [item for record in records for item in record.get("annotations", ())]
    boxes = np.empty((len(items), 4), dtype=np.float64)
    for row, item in enumerate(items):
        boxes[row] = item["bbox"]
    modes = np.array([int(item["bbox_mode"]) for item in items], dtype=np.int64)
    for mode in np.unique(modes):
        chosen = modes == mode
        boxes[chosen] = BoxMode.convert(boxes[chosen], BoxMode(int(mode)), BoxMode.XYXY_ABS)
    return BoxTable(
        corners=boxes,
        record=np.repeat(np.arange(len(records), dtype=np.int64), counts),
        category=np.array([item["category_id"] for item in items], dtype=np.int64),
        crowd=np.array([is_crowd(item) for item in items], dtype=np.bool_),
    )


def refuse_repeated_files(records: Iterable[dict[str, Any]], where: object) -> None:
    """Two entries of one image would each be an image with a part of the objects.

    Raises:
        SourceError: naming the set, which ``where`` says, and both entries.
    """
    ids: dict[str, Any] = {}
    for record in records:
        file, number = record["file_name"], record["image_id"]
        if (first := ids.setdefault(file, number)) != number:
            raise SourceError(
                f"{where}: images {first} and {number} are one file, {file}; a labeled set lists "
                "an image once: give its annotations one 'image_id', and remove the other entry"
            )


def identify_files() -> Callable[[str], str]:
    """What tells whether two names are of one image file, whatever links or spellings lead to it.

    A file is told by its device and inode, or by its real path where there is no file or the file
    system gives no inode. What is in a store has no links: its address tells. A member of a tar
    file is told by where in that file it lies. Keep the function for one look at the files, which
    may change.
    """
    real_folder = lru_cache(None)(os.path.realpath)

    def identify(name: str) -> str:
        if is_address(name):
            return name
        if is_piece(name):
            piece = Piece.parse(name)
            return str(piece._replace(file=identify(piece.file)))
        try:
            found = os.stat(name)
        except (OSError, ValueError):
            found = None
        if found is not None and found.st_ino:
            return f"{found.st_dev}:{found.st_ino}"
        if os.path.islink(name):
            return os.path.realpath(name)
        return os.path.join(real_folder(os.path.dirname(name)), os.path.basename(name))

    return identify
