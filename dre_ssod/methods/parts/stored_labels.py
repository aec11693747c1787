"""Pseudo-labels that were found before training: a COCO file with scores, as tools/pseudo_label.py
writes it.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import torch
from detectron2.structures import Boxes, Instances

from dre_ssod.data.mappers import STORED
from dre_ssod.data.splits.pools import Pools
from dre_ssod.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredLabels:
    """Pseudo-labels that are made before a run starts.

    Attributes:
        path: of their file.
        short_side: shorter side, in pixels, of the images that are labeled; 0: their own.
    """

    path: Path
    short_side: int


def with_stored_labels(pools: Pools, path: Path, threshold: float, of_run: bool = False) -> Pools:
    """Pools whose unlabeled images are those with a stored detection, and have their labels.

    Of each image the detections with a score of at least ``min(threshold, its highest score)``
    are labels: one that has none from the threshold on keeps its best.

    Args:
        of_run: whether an earlier stage of the same run has made the file, of these images.

    Raises:
        ConfigError: if the file cannot be read, has other classes, knows none of the images or,
            where the run has made it, is of other images.
    """
    found = read_labels(path, pools.classes)
    names = [record["file_name"] for record in pools.unlabeled]
    if of_run and [PurePath(n).name for n in names] == [PurePath(n).name for n in found]:
        # The same images, wherever they lie by now.
        found = dict(zip(names, found.values(), strict=True))
    new = [name for name in names if name not in found] if of_run else []
    if new:
        raise ConfigError(
            f"{path} was made in this OUTPUT_DIR of other unlabeled images than DATASETS and its "
            f"split now give, such as {new[0]}: choose another OUTPUT_DIR or, to label all of them "
            f"with the model that is there, remove labels.json and chunk_*.json in {path.parent}"
        )
    labeled, unknown = [], 0
    for record in pools.unlabeled:
        detections = _of_image(found, record["file_name"])
        unknown += detections is None
        if detections is not None and len(detections):
            labeled.append({**record, STORED: confident(detections, threshold)})
    if not labeled:
        raise ConfigError(
            f"{path} has no detection on any of the {len(pools.unlabeled)} unlabeled images: name "
            "the file that was made of these images, with their file names"
        )
    logger.info("%d of %d images have labels in %s", len(labeled), len(pools.unlabeled), path)
    if unknown:
        logger.warning(
            "%d unlabeled images are not in %s at all and are left out: is it of another set?",
            unknown,
            path,
        )
    return replace(pools, unlabeled=labeled)


def confident(detections: Instances, threshold: float) -> Instances:
    """Those with a score of at least ``min(threshold, the highest score)``."""
    return detections[detections.gt_scores >= min(threshold, float(detections.gt_scores.max()))]


def read_labels(path: Path, classes: Sequence[str]) -> dict[str, Instances]:
    """Detections of each image of a COCO file with scores, by its file name.

    Returns:
        ``Instances`` with ``gt_boxes`` in original pixels, ``gt_classes`` and ``gt_scores``.

    Raises:
        ConfigError: if the file cannot be read or has other classes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        index = {item["id"]: classes.index(item["name"]) for item in content["categories"]}
        rows = defaultdict(list)
        for item in content["annotations"]:
            x, y, width, height = map(float, item["bbox"])
            label = (index[item["category_id"]], float(item["score"]))
            rows[item["image_id"]].append(((x, y, x + width, y + height), *label))
        return {
            image["file_name"]: _instances(image, rows[image["id"]]) for image in content["images"]
        }
    except OSError as error:
        raise ConfigError(f"{path}: the labels cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not a COCO file with a score for each box and the classes "
            f"{', '.join(classes)}: {error!r}. tools/pseudo_label.py writes one"
        ) from error


def _instances(image: dict[str, Any], rows: Sequence[tuple[Any, int, float]]) -> Instances:
    boxes = torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 4)
    return Instances(
        (int(image["height"]), int(image["width"])),
        gt_boxes=Boxes(boxes),
        gt_classes=torch.tensor([label for _, label, _ in rows], dtype=torch.int64),
        gt_scores=torch.tensor([score for _, _, score in rows], dtype=torch.float32),
    )


def _of_image(found: dict[str, Instances], file_name: str) -> Instances | None:
    """By the whole path or, in a file whose names start at some folder, the longest end of it."""
    parts = PurePath(file_name).parts
    for start in range(len(parts)):
        name = str(PurePath(*parts[start:]))
        if name in found:
            return found[name]
    return None
