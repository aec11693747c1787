"""LabelMe's JSON files, one per image, beside the images or in a folder of their own."""

from __future__ import annotations

import math
from typing import Any

from dre_ssod.data.records import Corners
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import list_files
from dre_ssod.data.sources.programs.labels import Entry, ImageFiles, Labels, Options, box_of
from dre_ssod.data.sources.programs.shapes import around_points, points_of
from dre_ssod.data.text_files import is_integer, read_json
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place

_FEWEST_POINTS = {"rectangle": 2, "polygon": 3, "oriented_rectangle": 4, "circle": 2, "mask": 2}


def read_labelme(folder: Place, images: ImageFiles, options: Options, remarks: Remarks) -> Labels:
    """Labels of the JSON files under ``folder``, each of the image that has its name.

    Raises:
        SourceError: if there is no such file, or one is no file of LabelMe.
    """
    names = list_files(folder, (".json",))
    if not names:
        raise SourceError(f"{folder}: there is no JSON file of LabelMe here or below")
    found = images.of_labels(folder, names)
    return Labels([_entry(folder / name, image, remarks) for name, image in found.items()])


def _entry(path: Place, image: str | None, remarks: Remarks) -> Entry:
    content = read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise SourceError(
            f"{path}: is no file of LabelMe, which is an object with the list 'shapes'"
        )
    # By group, of which the shapes of one label are parts of one object, or by shape.
    parts: dict[str, tuple[Any, list[tuple[float, float]]]] = {}
    for number, shape in enumerate(shapes):
        where = f"{path}: shape {number}"
        if not isinstance(shape, dict):
            raise SourceError(f"{where}: must be an object, is {shape!r:.80}")
        corners = _corners(shape, where)
        label, group = shape.get("label", ""), shape.get("group_id")
        if corners is None:
            remarks.add("no-box", f"{where}: {shape.get('shape_type')} {label!r:.40}")
        else:
            key = where if group is None else repr((group, label))
            _, points = parts.setdefault(key, (label, []))
            points += [corners[:2], corners[2:]]
    objects = [(label, box_of(around_points(points))) for label, points in parts.values()]
    width, height = content.get("imageWidth"), content.get("imageHeight")
    known = is_integer(width) and is_integer(height) and min(width, height) > 0
    return Entry(str(path), image, (width, height) if known else None, objects)


def _corners(shape: dict[str, Any], where: str) -> Corners | None:
    """The box around a shape, in pixels; None for points and lines."""
    # Files of before shape_type have polygons alone.
    kind = shape.get("shape_type") or "polygon"
    if kind not in _FEWEST_POINTS:
        return None
    points = points_of(shape.get("points"), where, _FEWEST_POINTS[kind])
    if kind == "circle":
        (x, y), edge = points[:2]
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    x1, y1, x2, y2 = around_points(points)
    # The corners of a mask are its first and last pixel.
    return (x1, y1, x2 + 1, y2 + 1) if kind == "mask" else (x1, y1, x2, y2)
