"""The JSON beside an image in a shard: its size and its objects, by ``tools/pack_images.py``.

    {"width": 640, "height": 480, "objects": [{"class": "cell", "bbox": [x, y, width, height]}]}

Boxes are in pixels, as in COCO. ``iscrowd``, ``difficult``, ``area`` and ``score`` of an object are
kept; anything else is passed over.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from detectron2.structures import BoxMode

from dre_ssod.data.records import image_size, is_crowd, xywh
from dre_ssod.data.sources.names import check_class_name
from dre_ssod.data.sources.shards.patterns import ASKED_AT_ONCE
from dre_ssod.data.text_files import is_integer, is_number
from dre_ssod.errors import SourceError, UserError
from dre_ssod.stores import Piece, is_address

_FORM = (
    '{"width": 640, "height": 480, "objects": [{"class": "cell", "bbox": [x, y, width, height]}]}'
)
_show = reprlib.repr


def label_text(record: dict[str, Any], classes: Sequence[str]) -> str:
    """The JSON of a labeled record.

    Raises:
        SourceError: if the record does not say the size of its image.
    """
    width, height = image_size(record)
    objects = []
    for item in record["annotations"]:
        entry = {"class": classes[item["category_id"]], "bbox": xywh(item)}
        if is_crowd(item):
            entry["iscrowd"] = 1
        entry.update({key: item[key] for key in ("difficult", "area", "score") if key in item})
        objects.append(entry)
    return json.dumps({"width": width, "height": height, "objects": objects}, ensure_ascii=False)


def read_labels(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """What the JSON of each image says: ``width``, ``height``, and ``annotations`` with ``class``.

    Raises:
        SourceError: naming the first that does not fit.
        StoreError: if a store cannot be asked.
    """
    if pieces and is_address(pieces[0].file):
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            return list(pool.map(_read, pieces))
    return [_read(piece) for piece in pieces]


def _read(piece: Piece) -> dict[str, Any]:
    where = f"{piece.file}: {piece.name}"
    try:
        with piece.open() as file:
            content = json.loads(file.read())
    except UserError:
        # A store that does not answer says nothing about labels.
        raise
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise SourceError(f"{where}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise SourceError(f"{where}: holds {_show(content)}, and not labels of the form {_FORM}")
    for key in ("width", "height"):
        if not is_integer(content.get(key)) or content[key] < 1:
            raise SourceError(
                f"{where}: needs a positive integer {key!r}, has {_show(content.get(key))}"
            )
    objects = [
        _object(f"{where}: objects[{number}]", item)
        for number, item in enumerate(content["objects"])
    ]
    return {"width": content["width"], "height": content["height"], "annotations": objects}


def _object(where: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise SourceError(f"{where} must be an object, is {_show(item)}")
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise SourceError(f"{where} needs 'bbox' as [x, y, width, height], has {_show(box)}")
    found = {
        "class": check_class_name(item.get("class"), f"{where}: 'class'"),
        "bbox": box,
        "bbox_mode": BoxMode.XYWH_ABS,
    }
    for key in ("iscrowd", "difficult"):
        value = item.get(key, 0)
        if not isinstance(value, int) or value not in (0, 1):
            raise SourceError(f"{where} needs 0 or 1 as {key!r}, has {_show(value)}")
        if key == "iscrowd" or key in item:
            found[key] = int(value)
    for key in ("area", "score"):
        if item.get(key) is not None:
            if not is_number(item[key]):
                raise SourceError(f"{where} needs a number as {key!r}, has {_show(item[key])}")
            found[key] = float(item[key])
    return found
