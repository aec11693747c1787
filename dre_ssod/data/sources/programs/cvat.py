"""CVAT's "CVAT for images 1.1": one XML file with every image of a task, drawn on or not.

Since nothing in it says which images somebody has looked at, one without a shape that has a box is
unlabeled unless the URI says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

from dre_ssod.data.records import Corners
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.programs.labels import (
    Entry,
    ImageFiles,
    Labels,
    Options,
    box_of,
    remark_on_subsets,
)
from dre_ssod.data.sources.programs.shapes import (
    around_ellipse,
    around_points,
    around_turned,
    number_in,
)
from dre_ssod.data.text_files import read_xml
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place

_WITHOUT_BOX = ("polyline", "points", "cuboid", "skeleton")


def read_cvat(path: Place, images: ImageFiles, options: Options, remarks: Remarks) -> Labels:
    """Labels of an export as "CVAT for images"; the classes are those of its project or task.

    Raises:
        SourceError: if the file is none, is one of a video, or a shape's numbers cannot be read.
    """
    root = read_xml(path)
    found = root.findall("image")
    if root.tag != "annotations" or not found:
        video = "; export it as CVAT for images, not for video" if root.findall("track") else ""
        raise SourceError(f"{path}: is no export of CVAT for images, or has no image{video}")
    entries = []
    for number, image in enumerate(found):
        name = image.get("name", "")
        where = f"{path}: image {image.get('id', number)} ({name})"
        objects = list(_objects(image, where, remarks))
        if objects or options.empty_is_labeled:
            width, height = (int(_number(image, key, where, 0.0)) for key in ("width", "height"))
            size = (width, height) if width > 0 and height > 0 else None
            entries.append(Entry(where, images.named(name), size, objects))
        else:
            remarks.add("undrawn-image", where)
    if not entries:
        raise SourceError(
            f"{path}: none of its {len(found)} images has a box; add empty=labeled to the URI if "
            "there is nothing on them"
        )
    subsets = Counter(image.get("subset") or "without a subset" for image in found)
    remark_on_subsets(path, subsets, remarks)
    # The points of a skeleton, which have no box, are labels with a parent.
    labels = [item for item in root.iterfind("meta//label") if not item.findtext("parent")]
    names = dict.fromkeys(item.findtext("name", "") for item in labels)
    return Labels(entries, tuple(names))


def _objects(image: Element, where: str, remarks: Remarks) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in image:
        name = item.get("label", "")
        if item.tag in _WITHOUT_BOX:
            remarks.add("no-box", f"{where}: {item.tag} {name!r}")
            continue
        corners = _corners(item, where)
        if corners is not None:
            yield name, box_of(corners)


def _corners(item: Element, where: str) -> Corners | None:
    """The box around a shape, in pixels; None for what is no shape, such as a tag."""

    def read(*keys: str) -> list[float]:
        return [_number(item, key, where) for key in keys]

    degrees = _number(item, "rotation", where, 0.0)
    if item.tag == "box":
        x1, y1, x2, y2 = read("xtl", "ytl", "xbr", "ybr")
        if not degrees:
            return x1, y1, x2, y2
        return around_turned(x1, y1, x2 - x1, y2 - y1, degrees, about=(0.5, 0.5))
    if item.tag == "ellipse":
        x, y, rx, ry = read("cx", "cy", "rx", "ry")
        return around_ellipse(x, y, rx, ry, degrees)
    if item.tag == "mask":
        x, y, width, height = read("left", "top", "width", "height")
        return x, y, x + width, y + height
    if item.tag == "polygon":
        text = item.get("points", "")
        what = f"{where}: a corner of a polygon"
        points = [[number_in(n, what) for n in point.split(",")] for point in text.split(";")]
        if any(len(point) != 2 for point in points):
            raise SourceError(f"{where}: a polygon needs points x,y;x,y, has {text!r:.80}")
        return around_points(points)
    return None


def _number(item: Element, key: str, where: str, default: float | None = None) -> float:
    text = item.get(key)
    if text is None and default is not None:
        return default
    return number_in(text, f"{where}: {key} of <{item.tag}>")
