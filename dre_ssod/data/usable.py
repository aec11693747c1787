"""The one rule on which objects count: what it leaves out is neither trained on nor evaluated on.

An object is left out if its box is not made of numbers of pixels that single precision holds, has
no area, has no point in common with its image, lies within the image's first pixel (as fractions of
the image's size do where pixels are meant), or is that of an object of the same class before it.
Every reader of labeled sets goes through :func:`usable_records`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dre_ssod.data.kinds import CROWD_SHARE, EMPTY_SHARE, KINDS
from dre_ssod.data.records import BoxTable, make_table
from dre_ssod.data.remarks import Remarks
from dre_ssod.errors import SourceError

Mask = npt.NDArray[np.bool_]

_FAR = 2.0**24
"""Single precision, in which training has boxes, holds whole pixels up to here."""


def usable_records(
    name: str, records: Sequence[dict[str, Any]], remarks: Remarks
) -> list[dict[str, Any]]:
    """Records without the objects that do not count.

    Args:
        name: of the set, for the message.
        records: with ``annotations``; they are not changed.
        remarks: gets each object that is left out, and what else is odd about the boxes.

    Returns:
        New records where something is left out. They hold what is not a crowd region of it as
        ``dropped_boxes``, the corners (x1, y1, x2, y2) of each.

    Raises:
        SourceError: if all boxes are fractions of the image's size.
    """
    table = make_table(records)
    problems = _problems(table, _sizes(records))
    gone: Mask = np.any(list(problems.values()), axis=0)
    fractions = np.flatnonzero(problems["fraction-box"])
    if len(fractions) and gone.all():
        raise SourceError(
            f"{name}: the boxes lie within the first pixel of their images; they must be pixels, "
            f"and are fractions of the image's size. The first of {len(fractions)}: "
            f"{describe_box(records, table, int(fractions[0]))}. To do: "
            f"{KINDS['fraction-box'].advice}"
        )
    for kind, mask in problems.items():
        for row in np.flatnonzero(mask).tolist():
            remarks.add(kind, describe_box(records, table, row))
    left_out: dict[int, dict[str, Any]] = {}
    starts = np.searchsorted(table.record, np.arange(len(records)))
    for index in np.unique(table.record[gone]).tolist():
        left_out[index] = _without(records[index], table, gone, int(starts[index]))
    _remark_on_rest(records, table, gone, remarks)
    return [left_out.get(index, record) for index, record in enumerate(records)]


def why_no_boxes(records: Sequence[dict[str, Any]]) -> str:
    """What records without a box to train on hold instead, as the rest of a sentence, or ""."""
    crowds = sum(len(record["annotations"]) for record in records)
    dropped = sum(len(record.get("dropped_boxes", ())) for record in records)
    parts = [f": {crowds} objects are crowd regions ({KINDS['many-crowds'].advice})"] * (crowds > 0)
    parts += [f": {dropped} objects were left out, for reasons that the log names"] * (dropped > 0)
    return "".join(parts)


def remark_if_many_are_empty(records: Sequence[dict[str, Any]], remarks: Remarks) -> None:
    """Note a set of which a large share has no annotations; one without any is no labeled set."""
    count = sum(not record["annotations"] for record in records)
    if EMPTY_SHARE * len(records) <= count < len(records):
        remarks.add("many-empty", f"{count} of {len(records)} images")


def describe_box(records: Sequence[dict[str, Any]], table: BoxTable, row: int) -> str:
    """The image and the corners of a box."""
    numbers = ", ".join(f"{value:g}" for value in table.corners[row].tolist())
    return f"{records[int(table.record[row])]['file_name']} [{numbers}]"


def _sizes(records: Sequence[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """(N, 2) width and height of each record's image, NaN if unknown."""
    sizes = [(r.get("width", np.nan), r.get("height", np.nan)) for r in records]
    return np.array(sizes, dtype=np.float64).reshape(-1, 2)


def _problems(table: BoxTable, sizes: npt.NDArray[np.float64]) -> dict[str, Mask]:
    """(R,) masks of the boxes that do not count, by kind; each box has one kind at most."""
    with np.errstate(over="ignore", invalid="ignore"):
        boxes = table.corners.astype(np.float32)
        low, high = boxes[:, :2], boxes[:, 2:]
        # Comparisons with NaN, also an unknown size, are false.
        numbers = _all(np.abs(boxes) < _FAR)
        area = numbers & _all(high > low)
        own = sizes[table.record]
        outside = area & ~_all((high > 0) & ~(low >= own))
        fractions = area & ~outside & _all((high <= 1) & (low >= -1) & (own > 1))
    sound = area & ~outside & ~fractions
    return {
        "nan-box": ~numbers,
        "empty-box": numbers & ~area,
        "box-off-image": outside,
        "fraction-box": fractions,
        "duplicate-box": _repeated(table, sound),
    }


def _all(conditions: npt.NDArray[np.bool_]) -> Mask:
    """(R,) bool: whether all of the (R, N) conditions hold."""
    return np.asarray(conditions.all(axis=1), dtype=np.bool_)


def _repeated(table: BoxTable, sound: Mask) -> Mask:
    """(R,) bool: sound boxes that an earlier one of the same image and class equals."""
    repeated = np.zeros(len(sound), dtype=np.bool_)
    seen: set[tuple[Any, ...]] = set()
    record = -1
    for row in np.flatnonzero(sound).tolist():
        if table.record[row] != record:
            record = table.record[row]
            seen.clear()
        key = (int(table.category[row]), bool(table.crowd[row]), *table.corners[row].tolist())
        repeated[row] = key in seen
        seen.add(key)
    return repeated


def _without(record: dict[str, Any], table: BoxTable, gone: Mask, start: int) -> dict[str, Any]:
    """A record without some of its objects, the first of which has the row ``start``."""
    rows = range(start, start + len(record["annotations"]))
    kept = [item for row, item in zip(rows, record["annotations"], strict=True) if not gone[row]]
    dropped = [table.corners[row].tolist() for row in rows if gone[row] and not table.crowd[row]]
    return {**record, "annotations": kept, **({"dropped_boxes": dropped} if dropped else {})}


def _remark_on_rest(
    records: Sequence[dict[str, Any]], table: BoxTable, gone: Mask, remarks: Remarks
) -> None:
    kept = np.flatnonzero(~gone)
    sides = table.corners[kept, 2:] - table.corners[kept, :2]
    for row in kept[(sides < 1).any(axis=1)].tolist():
        remarks.add("tiny-box", describe_box(records, table, row))
    crowds = int(table.crowd[kept].sum())
    if crowds > CROWD_SHARE * len(kept):
        remarks.add("many-crowds", f"{crowds} of {len(kept)} objects")
