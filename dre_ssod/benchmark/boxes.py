"""What benchmarks put in place of real data and of a trained model.

Objects with the statistics of COCO's and detections of them, drawn at random; and thresholds for
random weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OBJECTS_PER_IMAGE = 7.3
CROWD_SHARE = 0.012
# Median of the square root of a box's area in pixels, and the deviation of its logarithm: two in
# five objects are then small, a third is of medium size, the others are large.
MEDIAN_SIDE, SIDE_SPREAD = 46.0, 1.15
LIMIT = 100
"""Most detections of an image."""


def draw_truth(images: int, classes: int, seed: int) -> dict[str, Any]:
    """Content of an annotation file; ids of images and categories have gaps, as COCO's have."""
    rng = np.random.default_rng(seed)
    categories = np.sort(rng.choice(np.arange(1, classes + 11), classes, replace=False))
    frequency = _frequencies(classes, rng)
    truth: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": int(number), "name": f"class {number}"} for number in categories],
    }
    for image_id in np.sort(rng.choice(120 * images, images, replace=False)).tolist():
        width, height = 640, int(rng.integers(360, 640))
        truth["images"].append({"id": image_id, "width": width, "height": height})
        count = rng.negative_binomial(1.2, 1.2 / (1.2 + OBJECTS_PER_IMAGE))
        boxes = _boxes(count, (width, height), rng).round(2)
        labels = rng.choice(classes, count, p=frequency)
        # An object fills a part of its box.
        areas = boxes[:, 2] * boxes[:, 3] * rng.uniform(0.45, 1.0, count)
        crowd = rng.random(count) < CROWD_SHARE
        truth["annotations"] += [
            {
                "id": len(truth["annotations"]) + 1 + position,
                "image_id": image_id,
                "category_id": int(categories[labels[position]]),
                "bbox": boxes[position].tolist(),
                "area": float(areas[position]),
                "iscrowd": int(crowd[position]),
            }
            for position in range(count)
        ]
    return truth


def draw_detections(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Up to 100 detections per image: jittered and repeated true boxes, and boxes on nothing.

    Coordinates and scores are those of float32 tensors; a part of the scores is rounded, so that
    there are equal ones.
    """
    rng = np.random.default_rng(seed)
    categories = [item["id"] for item in truth["categories"]]
    index = {number: position for position, number in enumerate(categories)}
    objects: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for item in truth["annotations"]:
        objects[item["image_id"]].append(item)
    frequency = _frequencies(len(categories), rng)
    detections: list[dict[str, Any]] = []
    for image in truth["images"]:
        present = objects[image["id"]]
        boxes = np.array([item["bbox"] for item in present]).reshape(-1, 4)
        labels = np.array([index[item["category_id"]] for item in present], dtype=np.int64)
        hits, hit_labels = _hits(boxes, labels, len(categories), rng)
        misses = _boxes(int(rng.integers(0, 90)), (image["width"], image["height"]), rng)
        miss_labels = rng.choice(len(categories), len(misses), p=frequency)
        scores = np.concatenate([rng.beta(3.0, 1.5, len(hits)), rng.beta(1.0, 6.0, len(misses))])
        scores[::3] = scores[::3].round(2)
        order = np.argsort(-scores, kind="stable")[:LIMIT]
        found = np.concatenate([hits, misses])[order].astype(np.float32).tolist()
        names = np.concatenate([hit_labels, miss_labels])[order].tolist()
        detections += [
            {"image_id": image["id"], "category_id": categories[k], "bbox": box, "score": score}
            for box, k, score in zip(
                found, names, scores[order].astype(np.float32).tolist(), strict=True
            )
        ]
    return detections


def threshold_for(scores: Tensor, count: int) -> float:
    """The score that the ``count`` highest of (R,) scores exceed; the lowest where R is no more.

    With random weights it lets as much through as the usual threshold does after training.
    """
    return float(scores.sort(descending=True).values[: count + 1][-1])


def _frequencies(classes: int, rng: np.random.Generator) -> Floats:
    """(classes,) shares: some classes are common and most are rare."""
    weights = rng.permutation(np.arange(1, classes + 1) ** -0.9)
    shares: Floats = weights / weights.sum()
    return shares


def _boxes(count: int, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """(count, 4) boxes (x, y, width, height) inside an image of ``size`` (width, height)."""
    side = np.exp(rng.normal(np.log(MEDIAN_SIDE), SIDE_SPREAD, count))
    aspect = np.exp(rng.normal(0.0, 0.45, count))
    extent = np.stack([side * aspect, side / aspect], axis=1).clip(2.0, np.array(size) - 1.0)
    return np.concatenate([rng.random((count, 2)) * (np.array(size) - extent), extent], axis=1)


def _hits(
    boxes: Floats, labels: Ints, classes: int, rng: np.random.Generator
) -> tuple[Floats, Ints]:
    """None to three detections near each box, some of another class."""
    chosen = np.repeat(np.arange(len(boxes)), rng.integers(0, 4, len(boxes)))
    near = boxes[chosen]
    near = near + rng.normal(0.0, 0.12, near.shape) * np.tile(near[:, 2:], (1, 2))
    near[:, 2:] = near[:, 2:].clip(min=1.0)
    other = rng.random(len(chosen)) < 0.08
    return near, np.where(other, rng.integers(0, classes, len(chosen)), labels[chosen])
