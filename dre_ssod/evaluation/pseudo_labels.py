"""How good the pseudo-labels are, where the unlabeled images secretly have annotations.

A diagnosis beside training: hidden labels are read here and leave only as figures. K classes, P
pseudo-boxes and G objects of one image; boxes are (x1, y1, x2, y2) in one frame.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import box_area

from dre_ssod.data.images import ImageError, read_image
from dre_ssod.data.mappers import instances_in_view
from dre_ssod.data.records import corners, is_crowd
from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.data.splits.pools import without_known
from dre_ssod.data.views.views import ViewRecipe, make_view
from dre_ssod.errors import ConfigError
from dre_ssod.evaluation.localization import MATCH_IOU
from dre_ssod.methods import Clock, MeanTeacher
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.structures import UnlabeledSample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QualityTally:
    """Counts over images, so that parts of a sample can be added up.

    Attributes:
        images: number of images.
        boxes: (K,) pseudo-boxes of each class, those on crowd regions left out.
        matched: (K,) of them, those that found an object of their class.
        objects: (K,) annotated objects.
        iou: (K,) sum of the IoUs of the matched boxes.
    """

    images: int
    boxes: npt.NDArray[np.float64]
    matched: npt.NDArray[np.float64]
    objects: npt.NDArray[np.float64]
    iou: npt.NDArray[np.float64]

    @classmethod
    def empty(cls, num_classes: int) -> QualityTally:
        return cls(0, *(np.zeros(num_classes) for _ in range(4)))

    def __add__(self, other: QualityTally) -> QualityTally:
        return QualityTally(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(QualityTally))
        )

    def figures(self, class_names: Sequence[str]) -> dict[str, float]:
        """Precision, recall and mean IoU of matched boxes, in [0, 1], and boxes per image.

        Precision and recall also by class, as ``precision-NAME``. What is undefined (no boxes, no
        objects, no match) is left out.
        """
        matched, boxes, objects = self.matched.sum(), self.boxes.sum(), self.objects.sum()
        ratios = {
            "precision": (matched, boxes),
            "recall": (matched, objects),
            "mean_iou": (self.iou.sum(), matched),
            "boxes_per_image": (boxes, self.images),
            "objects_per_image": (objects, self.images),
        }
        for k, name in enumerate(class_names):
            ratios[f"precision-{name}"] = (self.matched[k], self.boxes[k])
            ratios[f"recall-{name}"] = (self.matched[k], self.objects[k])
        return {name: float(a / b) for name, (a, b) in ratios.items() if b > 0}


def measure(
    labels: Instances, objects: Instances, crowd: Instances, num_classes: int
) -> QualityTally:
    """Match the pseudo-labels of one image to its objects.

    As in COCO's evaluation, boxes choose in order of their scores, each the object of its class
    that it overlaps most among those still free, from an IoU of 0.5 on. A box without an object
    that lies for the most part in a crowd region of its class is not counted.

    Args:
        labels: with ``gt_boxes``, ``gt_classes`` and ``gt_scores`` (P,).
        objects, crowd: with ``gt_boxes`` and ``gt_classes``, in the frame of ``labels``.
        num_classes: K.
    """
    order = labels.gt_scores.argsort(descending=True, stable=True)
    labels = labels[order].to("cpu")
    overlaps = pairwise_iou(labels.gt_boxes, objects.gt_boxes)
    overlaps[labels.gt_classes[:, None] != objects.gt_classes[None, :]] = 0.0
    found = _match(overlaps)
    counted = found > 0.0
    counted |= ~in_crowd(labels, crowd)
    return QualityTally(
        images=1,
        boxes=_per_class(labels.gt_classes, counted, num_classes),
        matched=_per_class(labels.gt_classes, found > 0.0, num_classes),
        objects=_per_class(objects.gt_classes, torch.ones(len(objects)), num_classes),
        iou=_per_class(labels.gt_classes, found, num_classes),
    )


def _per_class(classes: Tensor, values: Tensor, num_classes: int) -> npt.NDArray[np.float64]:
    """(K,) sums of (P,) values by class."""
    sums = np.zeros(num_classes)
    np.add.at(sums, classes.numpy(), values.double().numpy())
    return sums


def match_best_first(overlaps: Tensor) -> Tensor:
    """(P,) number of the object that each box gets, -1 for none.

    Each object is given once: a box takes the one that it overlaps most of those still free, from
    an IoU of ``MATCH_IOU`` on.

    Args:
        overlaps: (P, G) IoU of boxes, the best first, with objects; 0 where they are no pair.
    """
    free = overlaps.clone()
    objects = torch.full((len(overlaps),), -1, dtype=torch.int64, device=overlaps.device)
    if free.shape[1] == 0:
        return objects
    for row in range(len(free)):
        best, column = free[row].max(dim=0)
        if best >= MATCH_IOU:
            objects[row] = column
            free[:, column] = 0.0
    return objects


def _match(overlaps: Tensor) -> Tensor:
    """(P,) IoU of each box with the object it got, 0 for none; ``overlaps`` (P, G), best first."""
    objects = match_best_first(overlaps)
    rows = (objects >= 0).nonzero().flatten()
    found = overlaps.new_zeros(len(overlaps))
    found[rows] = overlaps[rows, objects[rows]]
    return found


def in_crowd(labels: Instances, crowd: Instances) -> Tensor:
    """(P,) whether at least half of the box lies in one crowd region of its class."""
    boxes, regions = labels.gt_boxes.tensor, crowd.gt_boxes.tensor
    if len(regions) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool)
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = (high - low).clamp(min=0.0).prod(dim=2) / box_area(boxes)[:, None]
    same_class = labels.gt_classes[:, None] == crowd.gt_classes[None, :]
    return ((shared >= MATCH_IOU) & same_class).any(dim=1)


def detections_in_crowd(detections: Instances, annotations: Sequence[dict[str, Any]]) -> Tensor:
    """(D,) whether a detection lies in a crowd region of its class; see :func:`in_crowd`.

    Args:
        detections: on the CPU, with ``pred_boxes`` and ``pred_classes``.
        annotations: in Detectron2's format, in the same frame, of which crowd regions count.
    """
    crowds = [item for item in annotations if is_crowd(item)]
    regions = Instances(
        detections.image_size,
        gt_boxes=Boxes(torch.tensor([corners(item) for item in crowds]).reshape(-1, 4)),
        gt_classes=torch.tensor([int(item["category_id"]) for item in crowds], dtype=torch.int64),
    )
    labels = Instances(
        detections.image_size, gt_boxes=detections.pred_boxes, gt_classes=detections.pred_classes
    )
    return in_crowd(labels, regions)


class PseudoLabelProbe:
    """Measures a teacher's pseudo-labels on a fixed sample of a labeled set."""

    def __init__(
        self,
        records: list[dict[str, Any]],
        class_names: Sequence[str],
        recipe: ViewRecipe,
        method: MeanTeacher,
    ) -> None:
        """
        Args:
            records: the sample, in Detectron2's format, with ``annotations``.
            recipe: of the weak view, without randomness.
            method: says what becomes a pseudo-label.
        """
        self.records = records
        self.class_names = list(class_names)
        self.recipe = recipe
        self.method = method

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        method: MeanTeacher,
        labeled: Sequence[dict[str, Any]],
        class_names: Sequence[str],
    ) -> PseudoLabelProbe | None:
        """The probe of TEST.PSEUDO_LABEL_SET; None where it is "".

        Args:
            method: of the run.
            labeled: records of what the run trains on with labels; their images are left out.
            class_names: those of the run.

        Raises:
            ConfigError: if no image is left, or the set has other classes than the run.
            SourceError: if the set cannot be read.
        """
        name = cfg.TEST.PSEUDO_LABEL_SET
        if not name:
            return None
        records = without_known(load_one_labeled(name), labeled)
        found = MetadataCatalog.get(name).get("thing_classes", [])
        if list(found) != list(class_names):
            raise ConfigError(
                f"TEST.PSEUDO_LABEL_SET {name!r} has the classes {', '.join(found)}, but "
                f"DATASETS.TRAIN has {', '.join(class_names)}: name a set with the same classes "
                "in the same order, or '' for no diagnosis."
            )
        if not records:
            raise ConfigError(
                f"TEST.PSEUDO_LABEL_SET {name!r} has no image that the run does not train on with "
                "labels: name a set that the unlabeled images come from, or '' for no diagnosis."
            )
        # One permutation whatever the number, so that a larger sample contains a smaller one.
        order = np.random.default_rng(0).permutation(len(records))
        sample = [records[i] for i in order[: cfg.TEST.PSEUDO_LABEL_IMAGES]]
        logger.info("Pseudo-labels are measured on %d images of %s", len(sample), name)
        return cls(sample, class_names, ViewRecipe.tested(cfg), method)

    def measure(self, teacher: SemiSupervisedRCNN, clock: Clock) -> dict[str, float]:
        """Figures of :meth:`QualityTally.figures`; all processes share the work and the result.

        What a method draws for an image depends on the image's place in the sample alone, and the
        generators of the run stay as they are.

        Args:
            teacher: in eval mode.
            clock: where in its schedule the run is.
        """
        tally = QualityTally.empty(len(self.class_names))
        devices = [teacher.device] if teacher.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            for place in range(comm.get_rank(), len(self.records), comm.get_world_size()):
                torch.manual_seed(place)
                try:
                    tally = tally + self._measure_one(teacher, self.records[place], clock)
                except ImageError as error:
                    logger.warning("Left out of the pseudo-label figures: %s", error)
        total = sum(comm.all_gather(tally), QualityTally.empty(len(self.class_names)))
        figures = total.figures(self.class_names)
        shown = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        logger.info("Pseudo-labels of %d images: %s", total.images, shown)
        return figures

    def _measure_one(
        self, teacher: SemiSupervisedRCNN, record: dict[str, Any], clock: Clock
    ) -> QualityTally:
        image = read_image(record["file_name"], self.recipe.image_format)
        view = make_view(image, self.recipe, np.random.default_rng(0))
        sample = UnlabeledSample(record["file_name"], weak=view, strong=view)
        with torch.no_grad():
            (labels,) = self.method.label(teacher, [sample], clock).cls.origin
        crowd = [{**a, "iscrowd": 0} for a in record["annotations"] if is_crowd(a)]
        return measure(
            labels,
            instances_in_view(record["annotations"], view),
            instances_in_view(crowd, view),
            len(self.class_names),
        )
