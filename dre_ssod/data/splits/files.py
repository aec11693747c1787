"""Files that say which images of a set are labeled: their forms, read and checked.

What an id or an index means for a set is up to :mod:`dre_ssod.data.splits.split`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dre_ssod.errors import SourceError

SAVED_KEYS = ("percent", "fold", "labeled", "total", "sha256", "labeled_ids")
"""What ``split.json`` of a run holds at least."""


@dataclass(frozen=True)
class SavedSplit:
    """The content of a ``split.json``, with a hash that fits its ids.

    Attributes:
        percent, fold, labeled_ids, total, origin: see :class:`dre_ssod.data.splits.split.Split`.
    """

    percent: float
    fold: int | None
    labeled_ids: tuple[str, ...]
    total: int
    origin: str


def hash_ids(ids: Iterable[str]) -> str:
    """SHA-256 (hex) of the sorted ids, joined by newlines, in UTF-8."""
    text = "\n".join(sorted(ids))
    # JSON can hold halves of characters, which UTF-8 cannot.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def read_ids(path: Path) -> SavedSplit | list[str]:
    """Read a ``split.json``, or a plain JSON list of image ids.

    Raises:
        SourceError: if the file is neither, an id is no integer or text or occurs twice, or the
            hash of a ``split.json`` is not that of its ids.
    """
    content = _read_json(path)
    if isinstance(content, dict):
        return _saved_split(content, path)
    if not isinstance(content, list):
        raise SourceError(
            f"{path}: holds a {type(content).__name__}; valid: a JSON list of image ids, such as "
            "[9, 25, 30], or the split.json of a run"
        )
    return _different_ids(content, path)


def read_indices(path: Path, percent: float, seed: int, total: int) -> list[int]:
    """Read the indices that Unbiased Teacher's file has for a percentage and a seed.

    Args:
        path: of a JSON file ``{percent: {seed: [index, ...]}}``.
        percent: compared as a number: 1 finds "1.0".
        seed: of the draw; the published file has 0 to 9.
        total: number of images that are counted.

    Raises:
        SourceError: if the file has another form, lacks the percentage or the seed, or its indices
            are not the ``int(percent / 100 * total)`` different ones of a set of ``total``.
    """
    content = _read_json(path)
    draws = _choose(_numbered(content, path, ""), percent, path, "percent")
    indices = _choose(_numbered(draws, path, f", percent {percent:g}"), seed, path, "seed")
    where = f"{path}, percent {percent:g}, seed {seed}"
    if not isinstance(indices, list):
        raise SourceError(f"{where}: must be a list of indices, is {type(indices).__name__}")
    seen: set[int] = set()
    for index in indices:
        if not isinstance(index, int) or isinstance(index, bool):
            raise SourceError(f"{where}: an index must be an integer, is {index!r:.80}")
        if not 0 <= index < total:
            raise SourceError(
                f"{where}: the index {index} is out of range; the set has {total} images with "
                f"boxes, so 0 to {total - 1} are valid. Is this the set that the file was made for?"
            )
        if index in seen:
            raise SourceError(f"{where}: the index {index} occurs twice")
        seen.add(index)
    # The expression, floats included, by which Unbiased Teacher sized the lists.
    expected = int(percent / 100.0 * total)
    if len(indices) != expected:
        raise SourceError(
            f"{where}: has {len(indices)} indices, but {percent:g} percent of the {total} images "
            f"with boxes of this set are {expected}: the file was made for another set"
        )
    return indices


def check_known(names: Collection[str], known: Collection[str], path: Path, hint: str) -> None:
    """Check that a set has all the images that a file names.

    Raises:
        SourceError: naming the first unknown ids, with ``hint`` on how the set's ids look.
    """
    found = set(known)
    unknown = [name for name in names if name not in found]
    if unknown:
        shown = ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        raise SourceError(
            f"{path}: {len(unknown)} of {len(names)} ids are not in the set: {shown}. {hint}"
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise SourceError(f"{path}: not valid JSON: {error}") from error


def _saved_split(content: dict[str, Any], path: Path) -> SavedSplit:
    missing = [key for key in SAVED_KEYS if key not in content]
    if missing:
        raise SourceError(
            f"{path}: {', '.join(missing)} is missing; the split.json of a run has "
            f"{', '.join(SAVED_KEYS)}. Unbiased Teacher's file of indices goes through "
            "tools/make_split.py --unbiased-teacher"
        )
    if not isinstance(content["labeled_ids"], list):
        raise SourceError(f"{path}: 'labeled_ids' must be a list of ids")
    ids = _different_ids(content["labeled_ids"], path)
    if content["labeled"] != len(ids):
        raise SourceError(f"{path}: 'labeled' is {content['labeled']!r}, but it has {len(ids)} ids")
    if content["sha256"] != hash_ids(ids):
        raise SourceError(
            f"{path}: 'sha256' is {content['sha256']!r}, but that of its ids is {hash_ids(ids)}: "
            "the file was changed. To use these ids all the same, make a JSON list of them"
        )
    percent, fold, total = content["percent"], content["fold"], content["total"]
    if not _is_number(percent) or not 0 < percent <= 100:
        raise SourceError(f"{path}: 'percent' must be a number in (0, 100], is {percent!r}")
    if fold is not None and (not isinstance(fold, int) or isinstance(fold, bool) or fold < 0):
        raise SourceError(f"{path}: 'fold' must be an integer from 0 or null, is {fold!r}")
    if not isinstance(total, int) or isinstance(total, bool) or total < len(ids):
        raise SourceError(f"{path}: 'total' must be at least {len(ids)}, is {total!r}")
    origin = content.get("origin", "draw")
    if not isinstance(origin, str):
        raise SourceError(f"{path}: 'origin' must be a text, is {origin!r}")
    return SavedSplit(float(percent), fold, tuple(ids), total, origin)


def _different_ids(entries: Sequence[Any], path: Path) -> list[str]:
    """The ids of a JSON list as text."""
    if not entries:
        raise SourceError(f"{path}: the list of image ids is empty; at least one must be labeled")
    ids: dict[str, None] = {}
    for entry in entries:
        if not isinstance(entry, (int, str)) or isinstance(entry, bool):
            raise SourceError(f"{path}: an image id must be an integer or a text, is {entry!r:.80}")
        if str(entry) in ids:
            raise SourceError(f"{path}: the image id {entry!r} occurs twice")
        ids[str(entry)] = None
    return list(ids)


def _numbered(content: Any, path: Path, where: str) -> dict[float, Any]:
    """An object's values by its keys, which are numbers."""
    if not isinstance(content, dict):
        raise SourceError(
            f"{path}{where}: holds a {type(content).__name__}; Unbiased Teacher's file has the "
            "form {percent: {seed: [index, ...]}}"
        )
    values: dict[float, Any] = {}
    for key, value in content.items():
        try:
            number = float(key)
        except ValueError as error:
            raise SourceError(
                f"{path}{where}: the key {key!r:.80} is no number; Unbiased Teacher's file has the "
                "form {percent: {seed: [index, ...]}}"
            ) from error
        if number in values:
            raise SourceError(f"{path}{where}: two keys mean {number:g}")
        values[number] = value
    return values


def _choose(values: dict[float, Any], key: float, path: Path, name: str) -> Any:
    if key not in values:
        valid = ", ".join(f"{number:g}" for number in sorted(values))
        raise SourceError(f"{path}: has no {name} {key:g}; valid: {valid or 'none'}")
    return values[key]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
