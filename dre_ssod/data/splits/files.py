"""Files that say which images of a set are labeled, and what they say about a given set."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dre_ssod.data.records import objects_of
from dre_ssod.data.sources.catalog import NamedRecord
from dre_ssod.data.splits.split import Split, check_different, different_ids
from dre_ssod.data.text_files import is_integer, read_json
from dre_ssod.errors import SourceError
from dre_ssod.files import set_aside
from dre_ssod.stores import Place, place_of

logger = logging.getLogger(__name__)


def load_split(path: str | Place, ids: Sequence[str]) -> Split:
    """Read which images are labeled from a run's ``split.json`` or a JSON list of image ids.

    Args:
        path: of the file.
        ids: the ids of all the images to choose from, as in :attr:`Split.labeled_ids`. A list in
            the file may leave out the number of the set where there is only one.

    Raises:
        SourceError: if the file cannot be read, its hash is wrong, or it does not fit these images.
    """
    path = place_of(str(path))
    check_different(ids)
    content = _read_choice(path)
    example = next(iter(sorted(ids)), "")
    if isinstance(content, Split):
        _check_known(content.labeled_ids, ids, path, f"Ids of this set look like {example!r}")
        if content.total != len(ids):
            raise SourceError(
                f"{path}: was made from {content.total} images, but this set has {len(ids)}. To "
                "use its ids all the same, make a JSON list of them"
            )
        return content
    if any(not name.startswith("0/") for name in ids):
        _check_known(content, ids, path, f"Ids of these sets look like {example!r}")
        return Split.of_chosen(content, len(ids), path.name)
    own_ids = [name.partition("/")[2] for name in ids]
    example = example.partition("/")[2]
    _check_known(content, own_ids, path, f"Ids of this set look like {example!r}")
    return Split.of_chosen([f"0/{name}" for name in content], len(ids), path.name)


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
        records: of :func:`dre_ssod.data.sources.catalog.load_named`.

    Raises:
        SourceError: if the file cannot be read, or the indices do not fit the records.
    """
    path = Path(path)
    check_different([name for name, _ in records])
    # Detectron2 keeps the boxes without area that this project's sources drop.
    with_boxes = [
        name for name, record in records if objects_of(record) or record.get("dropped_boxes")
    ]
    chosen = [with_boxes[index] for index in read_indices(path, percent, seed, len(with_boxes))]
    return Split.of_chosen(chosen, len(records), f"{path.name}, percent {percent:g}, seed {seed}")


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
    draws = _choose(_numbered(read_json(path), path, ""), percent, path, "percent")
    indices = _choose(_numbered(draws, path, f", percent {percent:g}"), seed, path, "seed")
    where = f"{path}, percent {percent:g}, seed {seed}"
    if not isinstance(indices, list):
        raise SourceError(f"{where}: must be a list of indices, is {type(indices).__name__}")
    seen: set[int] = set()
    for index in indices:
        if not is_integer(index):
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


def record_split(split: Split | None, path: Path, resumed: bool) -> None:
    """Save the split of a run, or check that a resumed run continues with the one it started with.

    A file that says something else, be it somebody's own, is kept under another name.

    Args:
        split: which images are labeled now; None for all.
        path: of the run's ``split.json``, which says so for its start; there is none for all.
        resumed: whether the run has iterations behind it.

    Raises:
        SourceError: if a resumed run would continue with other labeled images.
    """
    if resumed and path.exists():
        saved = _read_choice(path)
        if not isinstance(saved, Split) or split is None or split.sha256 != saved.sha256:
            raise SourceError(
                f"{path}: the run was started with other labeled images. Resume it with the "
                "settings of DATASETS in its config.yaml, or start another run in another "
                "OUTPUT_DIR"
            )
        return
    if path.exists():
        if _says(path, split):
            return
        other = set_aside(path)
        logger.warning("%s names other labeled images than this run has: it is now %s", path, other)
    if split is not None:
        split.save(path)


def _says(path: Path, split: Split | None) -> bool:
    """Whether a file is the ``split.json`` of a split."""
    try:
        return _read_choice(path) == split
    except SourceError:
        return False


def _read_choice(path: Place) -> Split | list[str]:
    """Read a ``split.json``, or a plain JSON list of image ids."""
    content = read_json(path)
    if isinstance(content, dict):
        return Split.from_content(content, path)
    if not isinstance(content, list):
        raise SourceError(
            f"{path}: holds a {type(content).__name__}; valid: a JSON list of image ids, such as "
            "[9, 25, 30], or the split.json of a run"
        )
    return different_ids(content, path)


def _check_known(names: Collection[str], known: Collection[str], path: Place, hint: str) -> None:
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


def _numbered(content: Any, path: Path, where: str) -> dict[float, Any]:
    """An object's values by its keys, which are numbers."""
    form = "Unbiased Teacher's file has the form {percent: {seed: [index, ...]}}"
    if not isinstance(content, dict):
        raise SourceError(f"{path}{where}: holds a {type(content).__name__}; {form}")
    values: dict[float, Any] = {}
    for key, value in content.items():
        try:
            number = float(key)
        except ValueError as error:
            raise SourceError(f"{path}{where}: the key {key!r:.80} is no number; {form}") from error
        if number in values:
            raise SourceError(f"{path}{where}: two keys mean {number:g}")
        values[number] = value
    return values


def _choose(values: dict[float, Any], key: float, path: Path, name: str) -> Any:
    if key not in values:
        valid = ", ".join(f"{number:g}" for number in sorted(values))
        raise SourceError(f"{path}: has no {name} {key:g}; valid: {valid or 'none'}")
    return values[key]
