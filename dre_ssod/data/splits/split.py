"""Which images of a set keep their labels: a draw, or a choice of somebody else's."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from dre_ssod.data.text_files import is_integer, is_number
from dre_ssod.errors import SourceError
from dre_ssod.files import write_text
from dre_ssod.stores import Place

SAVED_KEYS = ("percent", "fold", "labeled", "total", "sha256", "labeled_ids")
"""What ``split.json`` of a run holds at least."""


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

    @classmethod
    def of_chosen(cls, ids: Sequence[str], total: int, origin: str) -> Split:
        """A choice that is no draw of this project's."""
        return cls(100.0 * len(ids) / total, None, tuple(sorted(ids)), total, origin)

    @classmethod
    def from_content(cls, content: dict[str, Any], path: Place) -> Split:
        """The split that the content of a ``split.json`` describes.

        Args:
            path: of the file, for the messages.

        Raises:
            SourceError: if a key is missing or has another form, or the hash is not that of the
                ids.
        """
        missing = [key for key in SAVED_KEYS if key not in content]
        if missing:
            raise SourceError(
                f"{path}: {', '.join(missing)} is missing; the split.json of a run has "
                f"{', '.join(SAVED_KEYS)}. Unbiased Teacher's file of indices goes through "
                "tools/make_split.py --unbiased-teacher"
            )
        if not isinstance(content["labeled_ids"], list):
            raise SourceError(f"{path}: 'labeled_ids' must be a list of ids")
        ids = different_ids(content["labeled_ids"], path)
        if content["labeled"] != len(ids):
            found = content["labeled"]
            raise SourceError(f"{path}: 'labeled' is {found!r}, but it has {len(ids)} ids")
        if content["sha256"] != hash_ids(ids):
            raise SourceError(
                f"{path}: 'sha256' is {content['sha256']!r}, but that of its ids is "
                f"{hash_ids(ids)}: the file was changed. To use these ids all the same, make a "
                "JSON list of them"
            )
        percent, fold, total = content["percent"], content["fold"], content["total"]
        if not is_number(percent) or not 0 < percent <= 100:
            raise SourceError(f"{path}: 'percent' must be a number in (0, 100], is {percent!r}")
        if fold is not None and (not is_integer(fold) or fold < 0):
            raise SourceError(f"{path}: 'fold' must be an integer from 0 or null, is {fold!r}")
        if not is_integer(total) or total < len(ids):
            raise SourceError(f"{path}: 'total' must be at least {len(ids)}, is {total!r}")
        origin = content.get("origin", "draw")
        if not isinstance(origin, str):
            raise SourceError(f"{path}: 'origin' must be a text, is {origin!r}")
        return cls(float(percent), fold, tuple(sorted(ids)), total, origin)

    def save(self, path: str | Path) -> None:
        """Write percent, fold, counts, origin, hash and ids as JSON.

        Raises:
            FileError: if the file cannot be written.
        """
        content = {
            "percent": self.percent,
            "fold": self.fold,
            "labeled": len(self.labeled_ids),
            "total": self.total,
            "origin": self.origin,
            "sha256": self.sha256,
            "labeled_ids": list(self.labeled_ids),
        }
        # In ASCII: JSON can hold halves of characters, which UTF-8 cannot.
        write_text(Path(path), json.dumps(content, indent=1) + "\n")


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
    check_different(ids)
    # str() gives the decimal number that was written: 29 % of 100 is 29, which floats make 28.
    count = math.floor(Fraction(str(percent)) * len(ids) / 100)
    if count == 0:
        least = f"; use at least {100 / len(ids):.3g} percent" if ids else ""
        raise SourceError(
            f"DATASETS.LABELED_PERCENT {percent} of {len(ids)} images is less than one image{least}"
        )
    return Split(float(percent), fold, tuple(sorted(ranked(ids, fold)[:count])), len(ids))


def ranked(ids: Iterable[str], fold: int | str) -> list[str]:
    """The ids in the order in which a fold draws them: by the SHA-256 of ``"{fold}:{id}"``."""
    return sorted(ids, key=lambda name: hashlib.sha256(f"{fold}:{name}".encode()).digest())


def hash_ids(ids: Iterable[str]) -> str:
    """SHA-256 (hex) of the sorted ids, joined by newlines, in UTF-8."""
    text = "\n".join(sorted(ids))
    # JSON can hold halves of characters, which UTF-8 cannot.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def check_different(ids: Sequence[str]) -> None:
    """Check that the images of a set can be told apart.

    Raises:
        SourceError: if an id occurs twice.
    """
    if len(set(ids)) < len(ids):
        repeated = next(name for index, name in enumerate(ids) if name in ids[:index])
        raise SourceError(f"the image id {repeated!r} occurs twice; ids must differ to be drawn")


def different_ids(entries: Sequence[Any], path: Place) -> list[str]:
    """The ids of a JSON list as text.

    Raises:
        SourceError: if there is none, one is no integer or text, or one occurs twice.
    """
    if not entries:
        raise SourceError(f"{path}: the list of image ids is empty; at least one must be labeled")
    ids: dict[str, None] = {}
    for entry in entries:
        if not isinstance(entry, str) and not is_integer(entry):
            raise SourceError(f"{path}: an image id must be an integer or a text, is {entry!r:.80}")
        if str(entry) in ids:
            raise SourceError(f"{path}: the image id {entry!r} occurs twice")
        ids[str(entry)] = None
    return list(ids)
