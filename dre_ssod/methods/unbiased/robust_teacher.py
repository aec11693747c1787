"""Robust Teacher (Li et al., CVIU 2023): labels that correct themselves, and pasted objects.

Unbiased Teacher with four changes:

- *self-correction*: the teacher looks a second time, at its detections and at jittered copies of
  them, and only what it finds then can become a label;
- *fallback of tau*: an image in which nothing scores above tau tries the next lower bound, and
  the next, until one leaves a box;
- *copy-paste*: objects of labeled images are pasted into strong views where no label lies;
- *rebalancing*: a head learns which classes an image shows, and classes that it sees less of count
  more in the focal loss of unlabeled images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.structures.boxes import pairwise_intersection
from detectron2.utils import comm
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.geometry import clip_boxes
from dre_ssod.methods.mean_teacher import METHODS
from dre_ssod.methods.parts.jitter import jittered
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.methods.unbiased.unbiased_teacher import UnbiasedTeacher
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.regions import ImageClasses, Regions
from dre_ssod.modeling.student_batch import Mixer, StudentBatch
from dre_ssod.settings import Number, setting
from dre_ssod.structures import UNSUPERVISED, StudentLosses, UnlabeledSample
from dre_ssod.teacher import Labels, TeacherPass, observe
from dre_ssod.transfers import HostCopy, to_device

VIEWS = 2
"""Of each labeled image, the weak one last."""
IMAGE_TERM = "loss_image"


@METHODS.register()
class RobustTeacher(UnbiasedTeacher):
    """Unbiased Teacher with corrected labels, pasted objects and rebalanced classes::

    L = L_UnbiasedTeacher + w * (L_image + lambda_u * L_image,u)
    """

    @dataclass(frozen=True)
    class Settings(UnbiasedTeacher.Settings):
        min_score: float = setting(
            "SSOD.ROBUST_TEACHER.MIN_SCORE",
            0.05,
            "Score from which a detection takes part in the second look.",
            Number(0.0, 1.0),
        )
        jitter_copies: int = setting(
            "SSOD.ROBUST_TEACHER.JITTER_COPIES",
            10,
            "Jittered copies of each detection that the teacher looks at; 0: at detections alone.",
            Number(0, 1000),
        )
        jitter_scale: float = setting(
            "SSOD.ROBUST_TEACHER.JITTER_SCALE",
            0.08,
            "Deviation of a corner of a copy, as a fraction of the side along which it moves.",
            Number(0.0, 10.0),
        )
        lowest_threshold: float = setting(
            "SSOD.ROBUST_TEACHER.LOWEST_THRESHOLD",
            0.35,
            "Last bound that an image without labels falls back to.",
            Number(0.0, 1.0),
        )
        threshold_step: float = setting(
            "SSOD.ROBUST_TEACHER.THRESHOLD_STEP",
            0.05,
            "From one bound to the next, down from SSOD.UNBIASED_TEACHER.SCORE_THRESHOLD.",
            Number(1e-3, 1.0),
        )
        paste: float = setting(
            "SSOD.ROBUST_TEACHER.PASTE",
            0.5,
            "Share of passes in which objects are pasted.",
            Number(0.0, 1.0),
        )
        paste_max_cover: float = setting(
            "SSOD.ROBUST_TEACHER.PASTE_MAX_COVER",
            0.3,
            "An object is not pasted if it would cover more than this share of a label.",
            Number(0.0, 1.0),
        )
        paste_min_visible: float = setting(
            "SSOD.ROBUST_TEACHER.PASTE_MIN_VISIBLE",
            0.7,
            "Nor if less than this share of its area would lie inside the view.",
            Number(0.0, 1.0),
        )
        paste_min_area: float = setting(
            "SSOD.ROBUST_TEACHER.PASTE_MIN_AREA",
            5.0,
            "Nor if its area inside the view is below this many square pixels.",
            Number(0.0, 1e9),
        )
        image_weight: float = setting(
            "SSOD.ROBUST_TEACHER.IMAGE_WEIGHT",
            0.05,
            "w: weight of the loss of the head for the classes of an image.",
            Number(0.0, 1e6, positive=True),
        )
        rebalance: float = setting(
            "SSOD.ROBUST_TEACHER.REBALANCE",
            0.05,
            "By how much that head moves the weight of a class in the focal loss, at most.",
            Number(0.0, 1.0),
        )

    architecture = "ImageClassRCNN"

    def label(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> Labels:
        """What a second look finds, from the first bound on that leaves a box in the image."""
        seen = observe(teacher, samples, self.settings.min_score)
        bounds = self.bounds().to(teacher.device, non_blocking=True)
        corrected = self.corrected(seen)
        are_labels = torch.cat([above_first_bound(found.gt_scores, bounds) for found in corrected])
        return Labels.single(seen.carry(corrected, are_labels), seen.score)

    def corrected(self, seen: TeacherPass) -> list[Instances]:
        """Detections among the teacher's detections and their jittered copies, as proposals."""
        copies, scale = self.settings.jitter_copies, self.settings.jitter_scale
        candidates = []
        for found, sample in zip(seen.detections, seen.samples, strict=True):
            boxes = found.gt_boxes.tensor
            moved = torch.cat([boxes, jittered(boxes, copies, scale).reshape(-1, 4)])
            candidates.append(Boxes(clip_boxes(moved, sample.weak.size)))
        return seen.detect_again(candidates, self.settings.min_score)

    def bounds(self) -> Tensor:
        """tau and the lower bounds that follow it, highest first."""
        high, low = self.settings.score_threshold, self.settings.lowest_threshold
        steps = int((high - low) / self.settings.threshold_step + 1e-6)
        return high - self.settings.threshold_step * torch.arange(max(steps, 0) + 1)

    def mixer(self, clock: Clock) -> Paste | None:
        """Copy-paste, in a part of all passes."""
        if torch.rand(()).item() >= self.settings.paste:
            return None
        return Paste(
            self.settings.paste_max_cover,
            self.settings.paste_min_visible,
            self.settings.paste_min_area,
        )

    # The head for the classes of an image

    def losses(self, labeled: Regions, cls: Regions | None, box: Regions | None) -> StudentLosses:
        """Adds L_image, of labeled images and of strong views."""
        found = super().losses(labeled, cls, box)
        found.supervised[IMAGE_TERM] = image_loss(classes_of(labeled))
        if cls is not None:
            found.unsupervised[IMAGE_TERM + UNSUPERVISED] = image_loss(classes_of(cls))
        return found

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """L_roi^focal,u, each region weighted by its class: ``1 / R * sum_i r(c_i) * focal_i``."""
        weights = class_weights(classes_of(cls).scores, self.settings.rebalance)
        losses = weights[cls.classes] * self.focal_losses(cls)
        return StudentLosses(unsupervised={"loss_cls_unsup": cls.mean(losses)})

    def full_weight(self, term: str) -> float:
        weight = super().full_weight(term)
        return self.settings.image_weight * weight if term.startswith(IMAGE_TERM) else weight


def classes_of(regions: Regions) -> ImageClasses:
    """What the head says of the images of these regions."""
    assert regions.image_classes is not None, "checked by check_config"
    return regions.image_classes


def image_loss(images: ImageClasses) -> Tensor:
    """L_image: the binary cross-entropy of y, the mean over N images and K classes."""
    with torch.autocast(images.scores.device.type, enabled=False):
        return F.binary_cross_entropy(images.scores, images.present)


def class_weights(scores: Tensor, rebalance: float) -> Tensor:
    """(K + 1,) r: above 1 for classes that the images show less of, 1 for the background::

        r_c = 1 + rebalance * ((1 - y_c) - mean_k (1 - y_k)),   y = mean over the images

    It has a gradient, as in the code, and is the same on all processes.

    Args:
        scores: (N, K) y of each image.
    """
    shown = scores.mean(dim=0)
    if comm.get_world_size() > 1:
        shown = differentiable_all_reduce(shown) / comm.get_world_size()
    absent = 1.0 - shown
    moved = 1.0 + rebalance * (absent - absent.mean())
    return torch.cat([moved, torch.ones_like(moved[:1])])


def above_first_bound(scores: Tensor, bounds: Tensor) -> Tensor:
    """(R,) bool: the detections above the first bound which leaves at least one; else none.

    Args:
        scores: (R,) of one image.
        bounds: highest first.
    """
    is_above = scores[:, None] > bounds
    leaves_one = is_above.any(dim=0)
    # The first of the bounds that leave one.
    is_first = leaves_one & (leaves_one.cumsum(dim=0) == 1)
    return (is_above & is_first).any(dim=1)


class Paste(Mixer):
    """Pastes objects of labeled images, as their weak views show them, into strong views.

    View i gets those of labeled image i, or of the i-th again, at their own coordinates. It has to
    know where labels lie before the features are computed, so a GPU is waited for.
    """

    def __init__(self, max_cover: float, min_visible: float, min_area: float) -> None:
        """
        Args:
            max_cover, min_visible, min_area: see :func:`fitting_objects`.
        """
        self._bounds = max_cover, min_visible, min_area
        self._pasted: list[Instances] = []

    def images(self, images: ImageList, batch: StudentBatch) -> ImageList:
        """Paste what fits, in place."""
        assert batch.labels is not None, "there are strong views, so there are labels"
        first = len(batch.labeled)
        self._pasted = []
        views = batch.labels.cls.instances()
        boxes = HostCopy(torch.cat([labels.gt_boxes.tensor for labels in views])).read()
        split = boxes.split([len(labels) for labels in views])
        for view, (labels, own) in enumerate(zip(views, split, strict=True)):
            weak = VIEWS * (view % (first // VIEWS)) + VIEWS - 1
            objects = batch.labeled[weak]["instances"]
            on_host = Instances(labels.image_size, gt_boxes=Boxes(own))
            chosen = fitting_objects(objects, on_host, *self._bounds)
            for x1, y1, x2, y2 in chosen.gt_boxes.tensor.round().long().tolist():
                pixels = images.tensor[weak, :, y1:y2, x1:x2]
                images.tensor[first + view, :, y1:y2, x1:x2] = pixels
            self._pasted.append(chosen)
        return images

    def labels(self, labels: list[Instances], batch: StudentBatch) -> list[Instances]:
        """The labels of the strong views, and after them those of what was pasted."""
        merged = []
        for own, pasted in zip(labels, self._pasted, strict=True):
            device = own.gt_classes.device
            found = Instances(own.image_size, gt_boxes=own.gt_boxes, gt_classes=own.gt_classes)
            merged.append(Instances.cat([found, to_device(pasted, device)]))
        return merged


def fitting_objects(
    objects: Instances,
    labels: Instances,
    max_cover: float,
    min_visible: float,
    min_area: float,
) -> Instances:
    """Labeled objects that may be pasted into a view with the given labels.

    Args:
        objects: ``gt_boxes`` and ``gt_classes`` of a labeled image.
        labels: ``gt_boxes`` of the view's pseudo-labels; without any, nothing is pasted.
        max_cover: largest share of a label that an object may cover.
        min_visible: smallest share of an object inside the view.
        min_area: in square pixels, inside the view.

    Returns:
        their ``gt_boxes``, clipped to the view, and ``gt_classes``.
    """
    clipped = objects.gt_boxes.clone()
    clipped.clip(labels.image_size)
    fits = (clipped.area() >= min_area) & (clipped.area() >= min_visible * objects.gt_boxes.area())
    covers = pairwise_intersection(clipped, labels.gt_boxes) / labels.gt_boxes.area().clamp(min=1.0)
    fits &= (covers <= max_cover).all(dim=1)
    if len(labels) == 0:
        fits = torch.zeros_like(fits)
    return Instances(labels.image_size, gt_boxes=clipped[fits], gt_classes=objects.gt_classes[fits])
