"""YOLO's label files: where they are, what a line says, and what else lies beside them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePath

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import list_files
from dre_ssod.data.sources.names import show_names
from dre_ssod.data.sources.programs.shapes import number_in
from dre_ssod.data.sources.yolo_layout import read_class_file
from dre_ssod.data.text_files import read_lines
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place, StorePath

Fractions = tuple[float, float, float, float]
"""(x1, y1, x2, y2) as fractions of the image's size."""

# What writers round away may take a fraction of 1 just above it; what they draw, a little further.
_SLACK, _HAIR = 1e-6, 0.01
_SHOWN = 5
_LABEL = re.compile(r"[-+.\deE]+( [-+.\deE]+){4,}")
"""What a line of labels looks like: a class and four numbers or more."""
_CLASSES = "classes.txt"
_NO_LABELS = (_CLASSES, "train.txt", "valid.txt", "val.txt", "test.txt", "notes.txt")


def label_file(image: Place, root: Place) -> Place:
    """Where an image's labels are: its path's last ``images`` made ``labels``, else beside it."""
    if isinstance(image, StorePath) and isinstance(root, StorePath):
        return root / str(_labels_of(image.relative_to(root)))
    assert isinstance(image, Path), "both are here, or in one store"
    assert isinstance(root, Path), "both are here, or in one store"
    inside = image.is_relative_to(root)
    return root / _labels_of(image.relative_to(root)) if inside else Path(_labels_of(image))


def _labels_of(image: PurePath) -> PurePath:
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return type(image)(*parts).with_suffix(".txt")


def label_folder(images: Place, root: Place) -> Place:
    """Where the labels of the images in a folder are."""
    return label_file(images / "any.jpg", root).parent


def labels_alone(folder: Place, known: Collection[Place]) -> Iterator[Place]:
    """Label files under a folder that are none of the known ones.

    Raises:
        SourceError: if a folder cannot be listed.
    """
    for name in list_files(folder, (".txt",)):
        path = folder / name
        if path not in known and path.name not in _NO_LABELS and _may_be_labels(path):
            yield path


def _may_be_labels(path: Place) -> bool:
    """Whether a text without an image is a lost image's, not a README or a list of files.

    It is empty, is no text at all, or has a line of numbers.
    """
    try:
        lines = [line.split() for line in read_lines(path) if line.strip()]
    except SourceError:
        return True
    return not lines or any(_LABEL.fullmatch(" ".join(fields)) for fields in lines)


def check_class_files(
    labels: Collection[Place], root: Place, classes: Sequence[str], origin: str
) -> None:
    """Check the ``classes.txt`` beside label files, and in the folders above, up to ``root``.

    LabelImg writes one whenever it saves labels, with the classes in an order of its own.

    Args:
        classes: in use.
        origin: where they are from, for the message.

    Raises:
        SourceError: if one has another name for a number than is in use.
    """
    beside = {path.parent for path in labels}
    folders = {root, *beside}
    for folder in beside:
        way = set()
        while folder not in (root, folder.parent):
            folder = folder.parent
            way.add(folder)
        # Images may lie outside.
        folders |= way if folder == root else set()
    for path in sorted((folder / _CLASSES for folder in folders), key=str):
        # An image may be called so, too.
        listed = [] if path in labels else read_class_file(path)
        for index, (theirs, ours) in enumerate(zip(listed, classes, strict=False)):
            if theirs != ours.strip():
                raise SourceError(
                    f"{path}: class {index} is {theirs!r}, but {ours!r} by {origin}; "
                    f"the first lists {_shorten(listed)}, the second {_shorten(classes)}. A "
                    "number has one name, letter by letter: correct the list that is wrong, or "
                    f"remove this {_CLASSES} if it is that one"
                )


def _shorten(names: Sequence[str]) -> str:
    return show_names(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def read_labels(
    path: Place, classes: int, points: int, remarks: Remarks
) -> list[tuple[int, Fractions]]:
    """Class index and corners, as fractions of the image's size, of each line; none if no file."""
    if not path.exists():
        return []
    return [
        _parse(line.split(), f"{path}, line {number}", classes, points, remarks)
        for number, line in enumerate(read_lines(path), start=1)
        if line.strip()
    ]


def _parse(
    fields: list[str], where: str, classes: int, points: int, remarks: Remarks
) -> tuple[int, Fractions]:
    values = [number_in(text, f"{where}: a value") for text in fields]
    is_box = len(values) == 5 + points
    if not is_box and (points or len(values) < 7 or len(values) % 2 == 0):
        expected = (
            f"a box with key points has {5 + points} (see 'kpt_shape' in the YAML file)"
            if points
            else "a box has 5 (class, x, y, width, height), without a score; a polygon has a class "
            "and at least 3 points"
        )
        raise SourceError(f"{where}: has {len(values)} numbers; {expected}")
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        raise SourceError(
            f"{where}: the class must be an integer from 0 to {classes - 1}, is {fields[0]}"
        )
    fractions = values[1:5] if is_box else values[1:]
    for text, value in zip(fields[1:], fractions, strict=False):
        if not -_HAIR <= value <= 1 + _HAIR:
            raise SourceError(
                f"{where}: {text} is no fraction of the image's size in [0, 1]; divide x and width "
                "by the image's width, y and height by its height"
            )
    if is_box:
        x, y, width, height = fractions
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        xs, ys = fractions[0::2], fractions[1::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
        if _is_box_with_points(fractions):
            remarks.add("pose-line", where)
    if not -_SLACK <= min(fractions) <= max(fractions) <= 1 + _SLACK:
        remarks.add("cut-box", where)
        x1, y1, x2, y2 = (min(max(corner, 0.0), 1.0) for corner in corners)
        corners = (x1, y1, x2, y2)
    return int(values[0]), corners


def _is_box_with_points(fractions: list[float]) -> bool:
    """Whether numbers read as x, y, width and height of a box, and key points that lie in it.

    The points, (x, y) or (x, y, visibility), zeros where one is not seen, fill half of the box both
    ways. In the box alone lie those of one in ten polygons drawn at random or more; of those that
    fill half of it, too, there are three in a thousand.
    """
    x, y, width, height = fractions[:4]
    for step in (2, 3):
        rest = fractions[4:] if len(fractions[4:]) % step == 0 else []
        points = [point for point in zip(rest[0::step], rest[1::step], strict=True) if any(point)]
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        away = max(max(abs(px - x) - width / 2, abs(py - y) - height / 2) for px, py in points)
        is_full = max(xs) - min(xs) >= width / 2 and max(ys) - min(ys) >= height / 2
        if away <= _HAIR and is_full:
            return True
    return False


def to_pixels(corners: Fractions, width: int, height: int) -> list[float]:
    """Rounded to a millionth of a pixel, which gives back whole pixels as they were written."""
    sides = (width, height, width, height)
    return [round(corner * side, 6) for corner, side in zip(corners, sides, strict=True)]
