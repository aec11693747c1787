"""Pictures of what training sees: views, pseudo-labels, proposals, and whether they are aligned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dre_ssod.files import open_whole
from dre_ssod.inspection.canvas import RGBImage
from dre_ssod.inspection.drawing import (
    WEIGHT_COLORS,
    as_picture,
    checkerboard,
    draw_proposals,
    draw_pseudo_labels,
)
from dre_ssod.inspection.inspect import Inspection
from dre_ssod.inspection.layout import color_scale, note, reduced, side_by_side, stack

LARGEST_SIDE = 640
"""Longer views are reduced to this many pixels before they are drawn on."""
JPEG_QUALITY = 92
ALIGNMENT_NOTE = (
    "Boxes must lie on the same things in both rows, and contours continue in the last column. "
    "Bands: one standard deviation of an edge; q: localization quality score."
)

WEIGHT_NOTE = "weight of a proposal in the classification loss:"


def draw_inspection(
    inspection: Inspection, class_names: Sequence[str], image_format: str
) -> RGBImage:
    """Two rows: the weak view that the teacher sees above the strong view that the student sees.

    In columns: pseudo-labels, foreground proposals, background proposals, and the
    :func:`checkerboard` of both views. Both rows show the same boxes, which must lie on the same
    things.

    Returns:
        (H, W, 3) uint8.
    """
    weak, strong = inspection.sample.weak, inspection.sample.strong
    proposals, on_weak = inspection.proposals, inspection.proposals_on_weak_view()
    weights, most = None, 1.0
    if proposals.has("weight"):
        most = max(1.0, float(proposals.weight.max())) if len(proposals) else 1.0
        weights = proposals.weight / most
    is_foreground = proposals.gt_classes < len(class_names)
    rows = []
    for title, view, other, labels, boxes in (
        ("weak", weak, strong, inspection.weak_labels, on_weak),
        ("strong", strong, weak, inspection.strong_labels, proposals.proposal_boxes),
    ):
        canvas = ReducedView(view.image, image_format)
        drawn = draw_pseudo_labels(canvas.image, canvas.labels(labels), class_names)
        columns = [(f"{title} view: {len(labels)} pseudo-labels", drawn)]
        for name, chosen in (("foreground", is_foreground), ("background", ~is_foreground)):
            drawn = draw_proposals(
                canvas.image,
                Boxes(boxes.tensor[chosen] * canvas.scale),
                None if weights is None else weights[chosen],
                is_foreground=name == "foreground",
            )
            columns.append((f"{title} view: {int(chosen.sum())} {name} proposals", drawn))
        board, _ = reduced(checkerboard(view, other, image_format), LARGEST_SIDE)
        columns.append((f"{title} view, every other field from the other view", board))
        rows.append(side_by_side(columns))
    scale = [] if weights is None else [color_scale(WEIGHT_NOTE, WEIGHT_COLORS, most)]
    return stack([note([Path(inspection.sample.file_name).name, ALIGNMENT_NOTE]), *rows, *scale])


class ReducedView:
    """The pixels of a view, few enough to be drawn on.

    Attributes:
        image: (H, W, 3) uint8 RGB, no side longer than ``LARGEST_SIDE``.
        scale: from the view's pixels to those of ``image``, at most 1.
    """

    def __init__(self, image: Tensor, image_format: str) -> None:
        """
        Args:
            image: (3, H, W) uint8, of the view.
            image_format: order of its channels, "RGB" or "BGR".
        """
        self.image, self.scale = reduced(as_picture(image, image_format), LARGEST_SIDE)

    def labels(self, labels: Instances) -> Instances:
        """Pseudo-labels of the view, in pixels of ``image``."""
        reduced = Instances(self.image.shape[:2], **labels.get_fields())
        reduced.gt_boxes = Boxes(labels.gt_boxes.tensor * self.scale)
        if reduced.has("gt_sigma"):
            reduced.gt_sigma = labels.gt_sigma * self.scale
        return reduced


def write_picture(path: Path, picture: RGBImage) -> None:
    """Write an RGB picture, in the format that the extension names.

    Raises:
        FileError: if it cannot be written.
    """
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if is_jpeg else []
    _, encoded = cv2.imencode(path.suffix, bgr, options)
    with open_whole(path) as file:
        file.write(encoded.tobytes())
