"""Pictures of detections, pseudo-labels, proposals, ground truth and the alignment of two views.

Images are (H, W, 3) uint8 RGB; results are magnified as
:func:`dre_ssod.inspection.canvas.draw_items` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.structures import Boxes, Instances
from matplotlib.colors import LinearSegmentedColormap, to_hex
from torch import Tensor

from dre_ssod.data.records import corners, is_crowd
from dre_ssod.geometry import relative_matrix
from dre_ssod.inspection.canvas import (
    LINE_WIDTH,
    FloatArray,
    Item,
    RGBImage,
    check_image,
    class_color,
    draw_items,
)
from dre_ssod.structures import View

WEIGHT_COLORS = LinearSegmentedColormap.from_list("weight", ["#ff2a1a", "#ffe86b", "#2fa0ff"])
"""Red for a weight of 0, through yellow to blue for 1."""
BACKGROUND_WIDTH = 0.7
CHECKER_FIELDS = 6
"""Fields of the checkerboard along the long side."""


def draw_detections(
    image_rgb: RGBImage,
    instances: Instances,
    class_names: Sequence[str],
    bands: bool = True,
    color_by: str = "class",
) -> RGBImage:
    """Draw boxes, labeled "class 0.93 q0.41" (score, s_loc).

    Where ``pred_boxes_sigma`` is present a translucent band reaches from one standard deviation
    outside each edge to one inside it: a broad band is an edge that the detector is unsure of. It
    ends at a tenth of the box.

    Args:
        image_rgb: (H, W, 3) uint8.
        instances: on any device, with ``pred_boxes``, ``pred_classes``, ``scores`` and, as far as
            the model has them, ``localization_quality`` (R,) and ``pred_boxes_sigma`` (R, 4).
        class_names: by class index.
        bands: whether bands are drawn.
        color_by: "class", or "object" for neighbors that can be told apart.

    Returns:
        (H * m, W * m, 3) uint8, where m is the magnification.

    Raises:
        ValueError: if the image is none, or not the size that the boxes belong to.
    """
    fields = ("pred_boxes", "pred_classes", "scores", "localization_quality", "pred_boxes_sigma")
    return _draw_scored(image_rgb, instances, class_names, fields, bands, color_by == "object")


def draw_pseudo_labels(
    image_rgb: RGBImage, labels: Instances, class_names: Sequence[str]
) -> RGBImage:
    """As :func:`draw_detections`, of the fields that pseudo-labels have.

    Args:
        labels: with ``gt_boxes``, ``gt_classes``, ``gt_scores`` and, as far as they have them,
            ``gt_localization_quality`` (R,) and ``gt_sigma`` (R, 4).
    """
    return _draw_scored(
        image_rgb,
        labels,
        class_names,
        ("gt_boxes", "gt_classes", "gt_scores", "gt_localization_quality", "gt_sigma"),
    )


def draw_ground_truth(
    image_rgb: RGBImage,
    objects: Sequence[dict[str, Any]] | Instances,
    class_names: Sequence[str],
) -> RGBImage:
    """Draw annotated boxes, colored and labeled by class; crowd regions are dashed.

    Args:
        image_rgb: (H, W, 3) uint8.
        objects: annotations in Detectron2's format (``bbox``, ``bbox_mode``, ``category_id``), or
            ``Instances`` with ``gt_boxes`` and ``gt_classes``.
        class_names: by class index.

    Returns:
        as :func:`draw_detections`.

    Raises:
        ValueError: as :func:`draw_detections`.
    """
    if isinstance(objects, Instances):
        _check_frame(image_rgb, objects)
        boxes = list(objects.gt_boxes.tensor.detach().cpu().numpy())
        classes = objects.gt_classes.tolist()
        crowd = [False] * len(boxes)
    else:
        check_image(image_rgb)
        boxes = [np.asarray(corners(o)) for o in objects]
        classes = [int(o["category_id"]) for o in objects]
        crowd = [is_crowd(o) for o in objects]
    items = [
        Item(
            box,
            class_color(index),
            _class_name(class_names, index) + " (crowd)" * dashed,
            dashed=dashed,
        )
        for box, index, dashed in zip(boxes, classes, crowd, strict=True)
    ]
    return draw_items(image_rgb, items)


def draw_proposals(
    image_rgb: RGBImage, boxes: Boxes, weights: Tensor | None, is_foreground: bool
) -> RGBImage:
    """Draw proposals colored by their weight in the loss (``WEIGHT_COLORS``).

    What stands out lies on top: proposals of high weight among foreground ones; among background
    ones those of low weight, which the teacher takes for objects.

    Args:
        image_rgb: (H, W, 3) uint8.
        boxes: R boxes in pixels of the image.
        weights: (R,) in [0, 1], parts of the largest; None draws all as weight 1.
        is_foreground: how the student labeled them; background ones get thinner lines.
    """
    corners = boxes.tensor.detach().cpu().numpy()
    values = np.ones(len(corners)) if weights is None else weights.detach().cpu().numpy()
    order = np.argsort(values if is_foreground else -values, kind="stable")
    width = LINE_WIDTH if is_foreground else BACKGROUND_WIDTH
    items = [Item(corners[i], to_hex(WEIGHT_COLORS(float(values[i]))), width=width) for i in order]
    return draw_items(image_rgb, items, in_order=True)


def checkerboard(view: View, other: View, image_format: str) -> RGBImage:
    """A view, on every other field the other view of the same image as the matrices map it here.

    Where the matrices are right, contours continue from field to field. What lies outside the other
    view is black.

    Returns:
        (H, W, 3) uint8 of the size of ``view``.
    """
    height, width = view.size
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    # OpenCV counts from the center of the first pixel, the matrices from its corner.
    matrix = np.linalg.inv(half) @ relative_matrix(other.matrix, view.matrix).numpy() @ half
    mapped = cv2.warpAffine(
        as_picture(other.image, image_format), matrix[:2], (width, height), flags=cv2.INTER_LINEAR
    )
    side = max(1, round(max(height, width) / CHECKER_FIELDS))
    odd = (np.arange(height)[:, None] // side + np.arange(width)[None, :] // side) % 2 == 1
    board: RGBImage = np.where(odd[:, :, None], mapped, as_picture(view.image, image_format))
    return board


def as_picture(image: Tensor, image_format: str) -> RGBImage:
    """(H, W, 3) RGB pixels of (3, H, W) ones whose channels are in the order "RGB" or "BGR"."""
    pixels = image.permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels[:, :, ::-1] if image_format == "BGR" else pixels)


def _draw_scored(
    image_rgb: RGBImage,
    instances: Instances,
    class_names: Sequence[str],
    fields: tuple[str, str, str, str, str],
    bands: bool = True,
    by_object: bool = False,
) -> RGBImage:
    """``fields``: names of boxes, classes, scores, quality and sigma; the last two may miss."""
    _check_frame(image_rgb, instances)
    instances = instances.to("cpu")
    boxes_name, classes_name, scores_name, quality_name, sigma_name = fields
    boxes: FloatArray = instances.get(boxes_name).tensor.detach().numpy()
    classes = instances.get(classes_name).tolist()
    labels = [
        f"{_class_name(class_names, index)} {score:.2f}"
        for index, score in zip(classes, instances.get(scores_name).tolist(), strict=True)
    ]
    if instances.has(quality_name):
        quality = instances.get(quality_name).tolist()
        labels = [f"{label} q{value:.2f}" for label, value in zip(labels, quality, strict=True)]
    sigma: Sequence[FloatArray | None] = [None] * len(boxes)
    if bands and instances.has(sigma_name):
        sigma = list(instances.get(sigma_name).detach().numpy())
    colors = map(class_color, range(len(boxes)) if by_object else classes)
    return draw_items(image_rgb, list(map(Item, boxes, colors, labels, sigma)))


def _check_frame(image: RGBImage, instances: Instances) -> None:
    check_image(image)
    if tuple(instances.image_size) != image.shape[:2]:
        raise ValueError(
            f"the boxes belong to an image of (height, width) {tuple(instances.image_size)}, but "
            f"this one has {image.shape[:2]}; draw on the image that was given to the model"
        )


def _class_name(class_names: Sequence[str], index: int) -> str:
    if not 0 <= index < len(class_names):
        raise ValueError(f"class index {index}, but there are {len(class_names)} class names")
    return class_names[index]
