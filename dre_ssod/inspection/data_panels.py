"""Pictures of what a config makes of labeled images, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from dre_ssod.data.images import read_image
from dre_ssod.data.mappers import instances_in_view
from dre_ssod.inspection.canvas import RGBImage
from dre_ssod.inspection.drawing import checkerboard, draw_ground_truth
from dre_ssod.inspection.layout import note, reduced, side_by_side, stack
from dre_ssod.inspection.panels import LARGEST_SIDE, ReducedView
from dre_ssod.methods import build_method
from dre_ssod.teacher import CarriedLabels

NOTE = (
    "The boxes of the strong view are those of the weak view, mapped by the matrices as",
    "pseudo-labels are: they must enclose the same objects. In the last picture, contours",
    "must continue from field to field.",
)


class DataPanels:
    """Draws the views of labeled images with their labels.

    The labels stand in for pseudo-labels, so that a wrong matrix shows without a teacher. Nothing
    of this is reached by training.
    """

    def __init__(self, cfg: CfgNode, class_names: Sequence[str]) -> None:
        self._labeled, self._unlabeled = build_method(cfg).mappers(cfg)
        self._image_format = cfg.INPUT.FORMAT
        self._class_names = class_names

    def draw(self, record: dict[str, Any], rng: np.random.Generator) -> RGBImage:
        """Original and labeled view; below them weak and strong view, and both as a checkerboard.

        Args:
            record: in Detectron2's format, with ``annotations``.
            rng: draws the views.

        Raises:
            ImageError: if the file cannot be used as an image.
        """
        labeled_rng, unlabeled_rng = rng.spawn(2)
        file_name, annotations = record["file_name"], record["annotations"]
        sample = self._labeled(record, labeled_rng)
        unmarked = {key: value for key, value in record.items() if key != "annotations"}
        pair = self._unlabeled(unmarked, unlabeled_rng)
        on_weak = instances_in_view(annotations, pair.weak)
        (on_strong,) = CarriedLabels([on_weak], [pair.weak], [pair.strong]).instances()
        columns = [("original image", self._draw_original(file_name, annotations))]
        for title, image, labels in (
            ("labeled view", sample["image"], sample["instances"]),
            ("weak view", pair.weak.image, on_weak),
            ("strong view", pair.strong.image, on_strong),
        ):
            canvas = ReducedView(image, self._image_format)
            drawn = draw_ground_truth(canvas.image, canvas.labels(labels), self._class_names)
            columns.append((f"{title}, {len(labels)} boxes", drawn))
        board, _ = reduced(checkerboard(pair.weak, pair.strong, self._image_format), LARGEST_SIDE)
        columns.append(("weak and strong view, field by field", board))
        rows = [side_by_side(columns[:2]), side_by_side(columns[2:])]
        return stack([note([Path(file_name).name, *NOTE]), *rows])

    def _draw_original(self, file_name: str, annotations: Sequence[dict[str, Any]]) -> RGBImage:
        """The image as read, with all of its annotations, crowd regions included."""
        image = read_image(file_name, "RGB")
        drawn = draw_ground_truth(image, annotations, self._class_names)
        return drawn
