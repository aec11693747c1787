"""JSON of the VGG Image Annotator, version 1 or 2: annotations or the whole project.

It lists every image that was opened, so one without a region that has a box is unlabeled unless the
URI says otherwise. The class of a region is one of its attributes.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from dre_ssod.data.records import Corners
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.names import show_names
from dre_ssod.data.sources.programs.labels import Entry, ImageFiles, Labels, Options, box_of
from dre_ssod.data.sources.programs.shapes import around_ellipse, around_points, numbers
from dre_ssod.data.text_files import is_number, read_json
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place


def read_via(path: Place, images: ImageFiles, options: Options, remarks: Remarks) -> Labels:
    """Labels of an export as JSON, or of a saved project.

    Raises:
        SourceError: if the file is none, or which attribute is the class cannot be told.
    """
    files = _files(path)
    regions = [region for _, _, found in files for region in found]
    attribute = _class_attribute(path, regions, options)
    entries = []
    for where, name, found in files:
        objects = []
        for region in found:
            corners = _corners(region.get("shape_attributes"), where)
            label = _class_of(region, attribute, options, where)
            if corners is None:
                remarks.add("no-box", f"{where}: {label!r:.40}")
            else:
                objects.append((label, box_of(corners)))
        if objects or options.empty_is_labeled:
            entries.append(Entry(where, images.named(name), None, objects))
        else:
            remarks.add("undrawn-image", where)
    if not entries:
        raise SourceError(
            f"{path}: none of its {len(files)} images has a region with a box; add empty=labeled "
            "to the URI if there is nothing on them"
        )
    return Labels(entries)


def _files(path: Place) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """For messages, the name, and the regions of each image."""
    content = read_json(path)
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)
    files = list(content.values()) if isinstance(content, dict) else []
    if not files or not all(isinstance(f, dict) and "regions" in f for f in files):
        is_newer = isinstance(content, dict) and "project" in content
        newer = ", but one of version 3: export COCO there" if is_newer else ""
        raise SourceError(
            f"{path}: is no JSON of the VGG Image Annotator, version 1 or 2, with regions{newer}"
        )
    found = []
    for file in files:
        name, regions = file.get("filename"), file["regions"]
        # Version 1 numbers the regions.
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(name, str) or not isinstance(regions, list):
            raise SourceError(f"{path}: an image needs 'filename' and 'regions', has {file!r:.80}")
        if not all(isinstance(region, dict) for region in regions):
            raise SourceError(f"{path}: {name}: a region must be an object")
        found.append((f"{path}: {name}", name, regions))
    return found


def _class_attribute(path: Place, regions: list[dict[str, Any]], options: Options) -> str:
    """The region attribute that holds the class; "" where there is none and only one class."""
    found = Counter(key for region in regions for key in _attributes(region))
    if options.attribute or len(found) == 1:
        return options.attribute or next(iter(found))
    if not regions or (not found and len(options.classes) == 1):
        return ""
    to_do = "name it by attribute=NAME" if found else "name the only class by classes=A"
    raise SourceError(
        f"{path}: which attribute of a region is its class? It has {show_names([*found])}; {to_do}"
    )


def _attributes(region: dict[str, Any]) -> dict[str, Any]:
    found = region.get("region_attributes")
    return found if isinstance(found, dict) else {}


def _class_of(region: dict[str, Any], attribute: str, options: Options, where: str) -> Any:
    if not attribute:
        return options.classes[0]
    value = _attributes(region).get(attribute)
    if isinstance(value, dict):
        # Of check boxes, those that are set.
        chosen = [name for name, is_set in value.items() if is_set]
        if len(chosen) != 1:
            raise SourceError(
                f"{where}: a region has the classes {show_names(chosen)}; give it one"
            )
        return chosen[0]
    return value


def _corners(shape: Any, where: str) -> Corners | None:
    """The box around a shape, in pixels; None for points and lines."""
    kind = shape.get("name") if isinstance(shape, dict) else None
    if kind == "rect":
        x, y, width, height = numbers(shape, ("x", "y", "width", "height"), where)
        return x, y, x + width, y + height
    if kind == "circle":
        x, y, radius = numbers(shape, ("cx", "cy", "r"), where)
        return around_ellipse(x, y, radius, radius)
    if kind == "ellipse":
        x, y, rx, ry = numbers(shape, ("cx", "cy", "rx", "ry"), where)
        return around_ellipse(x, y, rx, ry, _degrees(shape))
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        valid = isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys) > 0
        if not valid or not all(map(is_number, [*xs, *ys])):
            raise SourceError(f"{where}: a polygon needs all_points_x and all_points_y")
        return around_points(list(zip(xs, ys, strict=True)))
    if kind in ("point", "polyline"):
        return None
    raise SourceError(f"{where}: the shape {shape!r:.80} is unknown")


def _degrees(shape: dict[str, Any]) -> float:
    """The angle of an ellipse, which VIA has in radians."""
    theta = shape.get("theta", 0)
    return math.degrees(theta) if is_number(theta) else 0.0
