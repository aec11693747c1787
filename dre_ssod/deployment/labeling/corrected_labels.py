"""Labels that come back from a person: joined with the old ones, and compared with a model's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou
from scipy.optimize import linear_sum_assignment

from dre_ssod.data.conversion.coco_content import SHAPES, find_shapes, shape_key
from dre_ssod.data.conversion.plan import coco_file
from dre_ssod.data.records import corners, identify_files, objects_of
from dre_ssod.data.sources.catalog import class_names
from dre_ssod.data.sources.names import show_names
from dre_ssod.data.sources.truth import load_truth
from dre_ssod.data.sources.uri import is_uri, parse_uri
from dre_ssod.data.text_files import is_integer, read_json
from dre_ssod.deployment.labeling.labeling_job import MANIFEST
from dre_ssod.errors import SourceError, counted
from dre_ssod.evaluation.pseudo_labels import match_best_first
from dre_ssod.runs.detector import categories_of

KEPT_IOU = 0.95
"""From this overlap on a person has left a suggested box where it was."""
_SAME = 0.5
"""Pixels by which forms of one and the same label may differ, since some round."""
_FLAGS = ("iscrowd", "difficult")
"""What an object is besides its class and its box, where the form of the labels says it."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Joined:
    """Labels of several sources.

    Attributes:
        records: the old ones first, one for each image.
        categories: ``id`` and ``name`` of the classes, in the order of their indices; ids as the
            first set has them, from 1 on where it has none.
        corrected: how many records are new, or replaced an old one.
        image_ids: of the records, as their COCO files have them; empty where these cannot all stay.
        ids_lost: why not, where any record has one.
        shapes_lost: how many objects had a mask or key points in a record that was replaced, or in
            a set that is no COCO file, from which they are not taken.
    """

    records: list[Record]
    categories: list[dict[str, Any]]
    corrected: int
    image_ids: list[int]
    ids_lost: str = ""
    shapes_lost: int = 0


@dataclass(frozen=True)
class Changes:
    """What a person made of the boxes that a model had suggested.

    Attributes:
        images: corrected images that the model had suggestions for.
        kept: suggested boxes that stayed, up to an overlap of ``KEPT_IOU``.
        moved: those that stayed with other edges, from an IoU of 0.5 on.
        renamed: those that were given another class.
        removed: those that are gone.
        added: boxes that had not been suggested.
    """

    images: int = 0
    kept: int = 0
    moved: int = 0
    renamed: int = 0
    removed: int = 0
    added: int = 0

    @property
    def precision(self) -> float:
        """Share of the suggested boxes that were right, at IoU 0.5; NaN without any."""
        suggested = self.kept + self.moved + self.renamed + self.removed
        return (self.kept + self.moved) / suggested if suggested else float("nan")

    @property
    def recall(self) -> float:
        """Share of the objects that had been suggested rightly; NaN without any."""
        objects = self.kept + self.moved + self.renamed + self.added
        return (self.kept + self.moved) / objects if objects else float("nan")


def join(old: Sequence[str], corrected: Sequence[str], replace: bool) -> Joined:
    """All labels of these sets, each image once; the same image is the same file.

    What a link in a labeling job's folder leads to has the name that it has there. Masks and key
    points of COCO files stay, as ``SHAPES``; a record that replaces an old one gets its image id.

    Args:
        old, corrected: names or URIs. The classes are those of the first; the others may have a
            part of them, in any order.
        replace: whether labels of ``corrected`` replace different ones of ``old``, and their masks
            those of equal boxes.

    Raises:
        SourceError: if a set cannot be read or has a class of its own, or two label an image
            differently.
    """
    names = [*old, *corrected]
    categories = categories_of(names[:1])
    classes = [category["name"] for category in categories]
    identify = identify_files()
    joined: dict[str, tuple[str, Record]] = {}
    new = set()
    lost = 0
    for number, name in enumerate(names):
        is_new = number >= len(old)
        for record in _in_classes(name, classes, with_shapes=True):
            place = identify(record["file_name"])
            before = joined.get(place)
            may_replace = replace and is_new and place not in new
            if before is not None and _same(before[1], record):
                drawn = _new_shapes(before[1], record)
                if not (drawn and may_replace):
                    lost += drawn
                    continue
            if before is not None and not may_replace:
                where = " in 'iscrowd' or 'difficult'" if _same(before[1], record, ()) else ""
                raise SourceError(
                    f"{record['file_name']}: {before[0]} has {_count(before[1])} on it, {name} "
                    f"{_count(record)}, and they differ{where}. Take the image out of one of them"
                    + (", or let the corrected ones count by --replace" if is_new else "")
                )
            lost += sum(map(_has_shape, before[1]["annotations"])) if before else 0
            kept = {
                "file_name": _outside_of_job(record["file_name"]),
                "image_id": (before[1] if before else record)["image_id"],
            }
            joined[place] = (name, {**record, **kept})
            if is_new:
                new.add(place)
    records = [record for _, record in joined.values()]
    items = (item for record in records for item in record["annotations"])
    lost += sum(SHAPES not in item and _has_shape(item) for item in items)
    return Joined(records, categories, len(new), *_image_ids(records), lost)


def _image_ids(records: Sequence[Record]) -> tuple[list[int], str]:
    """The ids that images of COCO files have, if all can keep them; else why not."""
    files: dict[int, str] = {}
    without = [record for record in records if not is_integer(record["image_id"])]
    for record in records:
        file, number = record["file_name"], record["image_id"]
        if is_integer(number) and files.setdefault(number, file) != file:
            return [], f"{files[number]} and {file} both have {number}"
    if without and files:
        return [], f"{without[0]['file_name']} is of a set that is no COCO file and has none"
    return list(files), ""


def _outside_of_job(file: str) -> str:
    """The image of a link that tasks of a labeling job have to it, as the link names it.

    The folder of a job may be removed once its labels are joined. Other links are left alone:
    somebody has made them.
    """
    if os.path.islink(file) and any((above / MANIFEST).is_file() for above in Path(file).parents):
        return os.path.join(os.path.dirname(file), os.readlink(file))
    return file


def _new_shapes(first: Record, second: Record) -> int:
    """Masks and key points of the second record that the first one does not have."""
    known = [item.get(SHAPES) for item in first["annotations"]]
    drawn = [item[SHAPES] for item in second["annotations"] if SHAPES in item]
    return sum(shape not in known for shape in drawn)


def _has_shape(item: Record) -> bool:
    return any(item.get(key) for key in (SHAPES, "segmentation", "keypoints"))


def compare(suggested: str, corrected: Sequence[str]) -> Changes:
    """What became of a model's boxes in the corrected sets.

    Args:
        suggested: the model's boxes, by name or URI.

    Raises:
        SourceError: if a set cannot be read or has a class of its own.
    """
    classes = class_names([suggested])
    identify = identify_files()
    boxes = {identify(r["file_name"]): r for r in _in_classes(suggested, classes)}
    counts = dict.fromkeys(("images", "kept", "moved", "renamed", "removed", "added"), 0)
    for record in (record for name in corrected for record in _in_classes(name, classes)):
        model = boxes.get(identify(record["file_name"]))
        if model is not None:
            for what, count in _changes(objects_of(model), objects_of(record)).items():
                counts[what] += count
            counts["images"] += 1
    return Changes(**counts)


def _changes(suggested: list[Record], objects: list[Record]) -> dict[str, int]:
    """Counts of one image: first boxes of the right class are matched, then the rest of any."""
    suggested = sorted(suggested, key=lambda item: -item.get("score", 0.0))
    overlaps = pairwise_iou(_boxes(suggested), _boxes(objects))
    same = torch.tensor(
        [[a["category_id"] == b["category_id"] for b in objects] for a in suggested]
    ).reshape(overlaps.shape)
    found = match_best_first(overlaps * same)
    matched = found >= 0
    rest = overlaps.clone()
    rest[matched] = 0.0
    rest[:, found[matched]] = 0.0
    renamed = int((match_best_first(rest) >= 0).sum())
    hits = int(matched.sum())
    rows = torch.arange(len(found))[matched]
    kept = int((overlaps[rows, found[matched]] >= KEPT_IOU).sum())
    return {
        "kept": kept,
        "moved": hits - kept,
        "renamed": renamed,
        "removed": len(suggested) - hits - renamed,
        "added": len(objects) - hits - renamed,
    }


def _boxes(items: Iterable[Record]) -> Boxes:
    return Boxes(
        torch.tensor([corners(item) for item in items], dtype=torch.float64).reshape(-1, 4)
    )


def _in_classes(name: str, classes: Sequence[str], with_shapes: bool = False) -> list[Record]:
    """The records of a set, with the class indices of ``classes``, and ``SHAPES`` if asked for."""
    own = class_names([name])
    unknown = [text for text in own if text not in classes]
    if unknown:
        raise SourceError(
            f"{name}: the classes {show_names(unknown)} are not among {show_names(list(classes))}. "
            "Rename them; for further classes, write them into the old set first"
        )
    order = [classes.index(text) for text in own]
    file = coco_file(name) if with_shapes else None
    content = read_json(file[0]) if file else {}
    shapes = find_shapes(content, own)
    says_crowd = not with_shapes or _says_crowd(name, content)
    found = []
    for record in load_truth(name):
        annotations = []
        for item in record["annotations"]:
            kept = shapes.get(shape_key(record["image_id"], item["category_id"], item))
            changed = {**item, "category_id": order[item["category_id"]]}
            if not says_crowd:
                changed.pop("iscrowd", None)
            annotations.append({**changed, SHAPES: kept} if kept else changed)
        found.append({**record, "annotations": annotations})
    return found


def _says_crowd(name: str, content: Record) -> bool:
    """Whether a set tells crowd regions from objects: of others, 0 says nothing.

    Args:
        content: of its COCO file, if it is one.
    """
    if content:
        return any("iscrowd" in item for item in content.get("annotations", []))
    return not is_uri(name) or parse_uri(name).scheme == "shards"


def _same(first: Record, second: Record, flags: Sequence[str] = _FLAGS) -> bool:
    """Whether two records have the same objects in any order, up to what forms round.

    Args:
        flags: compared where both records have them.
    """
    one, other = first["annotations"], second["annotations"]
    if not one or len(one) != len(other):
        return len(one) == len(other)
    shared = [flag for flag in flags if all(flag in item for item in (*one, *other))]
    rows = (
        [(item["category_id"], *corners(item), *map(item.get, shared)) for item in items]
        for items in (one, other)
    )
    columns = zip(*(np.array(row, dtype=np.float64).T for row in rows), strict=True)
    differ = np.logical_or.reduce([abs(np.subtract.outer(a, b)) > _SAME for a, b in columns])
    # Sorted, boxes that rounding makes equal could change places.
    return not differ[linear_sum_assignment(differ)].any()


def _count(record: Record) -> str:
    return counted(len(record["annotations"]), "object")
