"""Label Studio's JSON export: a list of tasks, each with an image and what was drawn on it.

Sizes are percentages of the image. A task is labeled once somebody has submitted it, with or
without objects; predictions do not count. Of several submitted annotations the one that is marked
as ground truth counts, since nothing else says which is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from dre_ssod.data.records import Corners
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import is_image_name
from dre_ssod.data.sources.names import show_names
from dre_ssod.data.sources.programs.labels import Entry, ImageFiles, Labels, Options, box_of
from dre_ssod.data.sources.programs.shapes import (
    around_ellipse,
    around_points,
    around_turned,
    numbers,
    points_of,
)
from dre_ssod.data.text_files import is_integer, read_json
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place

_UPLOADED = re.compile(r"/data/upload/|(.*/)?upload/\d+/[0-9a-f]{8}-[^/]+$")
"""Begins the path of a file that was uploaded, on a server or in its bucket."""
_PREFIX = re.compile("^[0-9a-f]{8}-")
"""What Label Studio puts before the name of such a file."""
_WITH_BOX = ({"points"}, {"x", "y", "width", "height"}, {"x", "y", "radiusX", "radiusY"})
"""Keys of a value that has a box: polygon, rectangle, ellipse. Not: point, painted mask, choice."""


def read_label_studio(
    path: Place, images: ImageFiles, options: Options, remarks: Remarks
) -> Labels:
    """Labels of an export as "JSON" or "JSON-MIN".

    Raises:
        SourceError: if the file is none, a task has several annotations, or an object no class.
    """
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise SourceError(f"{path}: is no export of Label Studio as JSON, which is a list of tasks")
    entries = []
    uploaded = images.by(_stored)
    shown = [_pictures(task) for task in content]
    keys = set()
    for number, task in enumerate(content):
        where = _where(path, task, number)
        drawn = _drawn(task, where)
        if drawn is not None:
            regions = _regions(drawn, where, remarks)
            objects = [_object(region, where) for region in regions]
            key = _key(shown[number], _picture(regions, where), where)
            keys.add(key)
            image = _image(shown[number][key], images, uploaded)
            entries.append(Entry(where, image, _size(drawn, where), objects))
    if not entries:
        raise SourceError(f"{path}: none of its {len(content)} tasks has been submitted")
    places = [
        (_where(path, task, number), pictures[key])
        for number, (task, pictures) in enumerate(zip(content, shown, strict=True))
        for key in sorted(keys & pictures.keys())
    ]
    _check_addresses(places, lambda address: _image(address, images, uploaded))
    return Labels(entries)


def _where(path: Place, task: dict[str, Any], number: int) -> str:
    return f"{path}: task {task.get('id', number)}"


def _drawn(task: dict[str, Any], where: str) -> list[dict[str, Any]] | None:
    """The results of a task; None if it was not submitted."""
    if "data" not in task:
        # JSON-MIN has one list for each control, of values alone, and the id of what was submitted.
        lists = [v for v in task.values() if isinstance(v, list) and all(map(_is_value, v))]
        values = [value for found in lists for value in found]
        submitted = values or task.get("annotation_id") is not None
        return [{**value, "value": value} for value in values] if submitted else None
    annotations = task.get("annotations", task.get("completions")) or []
    if not isinstance(annotations, list) or not all(isinstance(i, dict) for i in annotations):
        raise SourceError(f"{where}: 'annotations' must be a list of objects")
    submitted = [item for item in annotations if not item.get("was_cancelled")]
    truth = [item for item in submitted if item.get("ground_truth")]
    chosen = truth if len(submitted) > 1 and len(truth) == 1 else submitted
    if len(chosen) > 1:
        raise SourceError(
            f"{where}: has {len(chosen)} annotations; mark the right one as ground truth in Label "
            "Studio, or delete the others"
        )
    if not chosen:
        return None
    results = chosen[0].get("result")
    if not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
        raise SourceError(f"{where}: 'result' must be a list of objects, is {results!r:.80}")
    return results


def _is_value(item: Any) -> bool:
    return isinstance(item, dict) and ("original_width" in item or "points" in item)


def _regions(results: list[dict[str, Any]], where: str, remarks: Remarks) -> list[dict[str, Any]]:
    """The regions that have a box."""
    regions: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(results):
        if item.get("type") == "relation":
            continue
        if not isinstance(item.get("value"), dict):
            raise SourceError(f"{where}: a result has no 'value': {item!r:.80}")
        # A region whose class is chosen by another control has one result for each of the two.
        region = regions.setdefault(str(item.get("id", number)), {})
        region.update({key: value for key, value in item.items() if key != "value"})
        region["value"] = {**region.get("value", {}), **item["value"]}
    found = []
    for region in regions.values():
        if any(keys <= set(region["value"]) for keys in _WITH_BOX):
            found.append(region)
        elif names := _names(region):
            remarks.add("no-box", f"{where}: {', '.join(map(str, names))}")
    return found


def _object(region: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """The class and the box of a region."""
    names = _names(region)
    if len(names) != 1:
        raise SourceError(f"{where}: a region has {len(names)} classes ({names}); give it one")
    if region.get("image_rotation", 0) not in (0, None):
        raise SourceError(
            f"{where}: was labeled on a turned view of the image, by "
            f"{region['image_rotation']} degrees; turn the file instead"
        )
    size = _size([region], where)
    if size is None:
        raise SourceError(f"{where}: a region has no original_width and original_height")
    corners = _corners(region["value"], size, where)
    return names[0], box_of([round(number, 6) for number in corners])


def _picture(regions: list[dict[str, Any]], where: str) -> str | None:
    """The control in which all boxes of a task were drawn; None if that is not said.

    Raises:
        SourceError: if there are several, each of which shows a picture of its own.
    """
    names = list(dict.fromkeys(str(item["to_name"]) for item in regions if item.get("to_name")))
    if len(names) > 1:
        raise SourceError(
            f"{where}: has boxes on {len(names)} pictures ({show_names(names)}); make a task of "
            "each picture, since an image is to have labels of its own"
        )
    return names[0] if names else None


def _names(region: dict[str, Any]) -> list[Any]:
    """The classes of a region: in the list that has the name of its type, such as rectanglelabels.

    Where the control has another type than the shape, that list is "labels".
    """
    found = [v for key, v in region["value"].items() if key.endswith("labels")]
    return [name for names in found if isinstance(names, list) for name in names]


def _corners(value: dict[str, Any], size: tuple[int, int], where: str) -> Corners:
    """The box around a region, in pixels."""
    width, height = size[0] / 100, size[1] / 100
    if "points" in value:
        points = points_of(value["points"], where)
        return around_points([(x * width, y * height) for x, y in points])
    degrees = value.get("rotation") or 0
    if "radiusX" in value:
        x, y, rx, ry = numbers(value, ("x", "y", "radiusX", "radiusY"), where)
        return around_ellipse(x * width, y * height, rx * width, ry * height, degrees)
    x, y, w, h = numbers(value, ("x", "y", "width", "height"), where)
    box = (x * width, y * height, w * width, h * height)
    return around_turned(*box, degrees, about=(0.0, 0.0))


def _size(results: list[dict[str, Any]], where: str) -> tuple[int, int] | None:
    """(width, height) of the image, as the first region that has it says."""
    for item in results:
        width, height = item.get("original_width"), item.get("original_height")
        if width is None and height is None:
            continue
        if not (is_integer(width) and is_integer(height) and min(width, height) > 0):
            raise SourceError(f"{where}: original_width and _height are {width!r} and {height!r}")
        return width, height
    return None


def _pictures(task: dict[str, Any]) -> dict[str, str]:
    """The values of a task's data that are addresses of pictures."""
    data = task.get("data", task)
    return {
        key: value
        for key, value in (data.items() if isinstance(data, dict) else ())
        if isinstance(value, str) and is_image_name(PurePosixPath(_path_in(value)).name)
    }


def _key(found: dict[str, str], picture: str | None, where: str) -> str:
    """Which picture of a task's data is its image: that called "image", or the only one.

    Of several pictures it is the one that is called as the control in which the boxes were drawn.

    Raises:
        SourceError: if that cannot be told.
    """
    if picture in found:
        return picture
    if "image" not in found and len(found) != 1:
        raise SourceError(
            f"{where}: which value of its data is the image? There are {', '.join(found) or 'none'}"
        )
    return "image" if "image" in found else next(iter(found))


def _check_addresses(places: Sequence[tuple[str, str]], find: Callable[[str], str | None]) -> None:
    """Refuse an image that two addresses lead to: one of them is of another file.

    Args:
        places: task and address, also of tasks that nobody has submitted: the image may be theirs.
        find: the image of an address.

    Raises:
        SourceError: naming both.
    """
    owners: dict[str, tuple[str, str]] = {}
    for where, address in places:
        try:
            image = find(address)
        except SourceError:
            # Of several images; refused before, if the task was submitted.
            continue
        if image is None:
            continue
        first, other = owners.setdefault(image, (where, address))
        if other != address:
            raise SourceError(
                f"{where}: {address!r} leads to {image}, as {other!r} of {first} does, and it can "
                "be the image of one of them alone; remove the task of the other image from the "
                "export or, where folders in the addresses tell the two apart, give by images= the "
                "folder that holds both of these"
            )


def _path_in(address: str) -> str:
    """The path of a file in a task's address of it, which may be that of a bucket or a server."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    if local := parse_qs(parts.query).get("d"):
        return local[0]
    return unquote(parts.path) if parts.scheme or address.startswith("/") else address


def _image(address: str, images: ImageFiles, uploaded: Callable[[str], str | None]) -> str | None:
    """The image in the folder, by the name that it had before it was uploaded, too."""
    path = PurePosixPath(_path_in(address).replace("\\", "/"))
    if not _UPLOADED.match(str(path)):
        return images.ending(str(path))
    return images.ending(path.name) or uploaded(_stored(_PREFIX.sub("", path.name, count=1)))


def _stored(name: str) -> str:
    """What Label Studio makes of the name of a file that is uploaded: Django's valid names."""
    return re.sub(r"[^-\w.]", "", name.replace(" ", "_"))
