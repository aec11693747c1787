"""Instant-Teaching (Zhou et al., CVPR 2021): labels of the model of this very step, and mixing.

The teacher is the student itself, copied after every step: what was learned labels the next weak
views at once. Half of the strong views are mixed with a labeled image of the batch, whose boxes
are certain::

    mixup:  x = lambda * x_u + (1 - lambda) * x_l,  lambda ~ U(0, 1);  labels of both, weighing
            lambda and 1 - lambda in the classification loss
    split:  x = x_u on one side of a straight cut and x_l on the other
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from dre_ssod.data.mappers import LabeledMapper, UnlabeledMapper, UnlabeledViews
from dre_ssod.data.views.instant_teaching import change_pixels
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.parts.placing import draw_integer
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.modeling.regions import Regions
from dre_ssod.modeling.student_batch import Mixer, StudentBatch
from dre_ssod.settings import Number, setting
from dre_ssod.structures import StudentLosses
from dre_ssod.transfers import chosen, filled_like, to_device


@METHODS.register()
class InstantTeaching(MeanTeacher):
    """One detector that labels for itself; :class:`InstantTeachingStar` is the pair of them."""

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        score_threshold: float = setting(
            "SSOD.INSTANT_TEACHING.SCORE_THRESHOLD",
            0.9,
            "tau: from this foreground score on a detection of the teacher becomes a pseudo-label.",
            Number(0.0, 1.0),
        )
        mix: float = setting(
            "SSOD.INSTANT_TEACHING.MIX",
            0.5,
            "Share of strong views that are mixed with a labeled image.",
            Number(0.0, 1.0),
        )
        mixup: float = setting(
            "SSOD.INSTANT_TEACHING.MIXUP",
            0.5,
            "Share of mixup among those; the others are split.",
            Number(0.0, 1.0),
        )
        min_side: float = setting(
            "SSOD.INSTANT_TEACHING.MIN_SIDE",
            0.25,
            "A box that the cut shortens stays if both of its sides keep more than this share.",
            Number(0.0, 1.0),
        )

    # The teacher is the student.
    unread = ("ema_decay", "ema_horizon", "burn_in_copy")

    # Views: the strong one has its own flip and size, and pixel operations of the method's own

    view_keys: ClassVar[tuple[str, ...]] = ("LABELED_VIEW",)

    def mappers(self, cfg: CfgNode) -> tuple[LabeledMapper, UnlabeledViews]:
        return LabeledMapper.from_config(cfg), self.unlabeled_mapper(cfg)

    def unlabeled_mapper(self, cfg: CfgNode, students: int = 1) -> UnlabeledMapper:
        """What makes a weak view of an image, and a strong one for each student."""
        weak = ViewRecipe.weak(cfg)
        return UnlabeledMapper(weak, replace(weak, pixels=change_pixels), students)

    def mixer(self, clock: Clock) -> LabeledMix:
        """Mixup and split with labeled images."""
        return LabeledMix(self.settings.mix, self.settings.mixup, self.settings.min_side)

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """Cross-entropy with foreground regions weighed by lambda or 1 - lambda; plain box loss.

        A one-hot target times a weight and a weighted cross-entropy are the same.
        """
        weights = torch.where(cls.is_foreground, cls.matched("gt_weight"), 1.0)
        return StudentLosses(
            unsupervised={
                "loss_cls_unsup": cls.mean(weights * cls.cross_entropy()),
                "loss_box_reg_unsup": self.box_mean(box, box.smooth_l1().sum(dim=1)),
            }
        )

    def weight(self, term: str, clock: Clock) -> float:
        """Half of each, as means over labeled and unlabeled images together; a burn-in has one."""
        share = 1.0 if clock.iteration < clock.burn_in else 0.5
        return share * super().weight(term, clock)

    def decay(self, clock: Clock) -> float:
        """0: the teacher is the student."""
        return 0.0


@dataclass(frozen=True)
class Part:
    """What one of the two images of a mixture contributes.

    Attributes:
        weight: of its labels in the classification loss.
        area: (x1, y1, x2, y2) of the mixture that shows it; None where all of it is shown.
    """

    weight: float
    area: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Mixed:
    """How a strong view is mixed with a labeled image.

    Attributes:
        size: (height, width) of the mixture.
        partner: position of the labeled image in the batch.
        own, other: parts of the strong view and of the labeled image.
    """

    size: tuple[int, int]
    partner: int
    own: Part
    other: Part


class LabeledMix(Mixer):
    """Mixes strong views with labeled images of the same batch."""

    def __init__(self, mix: float, mixup: float, min_side: float) -> None:
        """
        Args:
            mix: share of mixed views.
            mixup: share of mixup among them.
            min_side: of a box that is cut, see :func:`cut_labels`.
        """
        self._mix = mix
        self._mixup = mixup
        self._min_side = min_side
        self._plans: list[Mixed | None] = []

    def images(self, images: ImageList, batch: StudentBatch) -> ImageList:
        """Mix the strong views, in place; view i with labeled image i, or the i-th again."""
        first = len(batch.labeled)
        sizes = list(images.image_sizes)
        self._plans = []
        for view in range(len(images) - first):
            partner = view % first
            plan, mixture = None, first + view
            if torch.rand(()).item() < self._mix:
                pair = images.tensor[mixture], images.tensor[partner]
                both = [max(s) for s in zip(sizes[mixture], sizes[partner], strict=True)]
                plan = self._draw(*pair, (both[0], both[1]), partner)
                sizes[mixture] = plan.size
            self._plans.append(plan)
        return ImageList(images.tensor, sizes)

    def _draw(self, own: Tensor, other: Tensor, size: tuple[int, int], partner: int) -> Mixed:
        """Mix one pair (C, H, W) in place, padded as the batch is; a cut knows their size alone."""
        height, width = size
        if torch.rand(()).item() < self._mixup:
            lam = torch.rand(()).item()
            own.mul_(lam).add_(other, alpha=1.0 - lam)
            return Mixed(size, partner, Part(lam), Part(1.0 - lam))
        if torch.rand(()).item() < 0.5:
            cut = draw_cut(width)
            own[..., cut:] = other[..., cut:]
            areas = (0, 0, cut, height), (cut, 0, width, height)
        else:
            cut = draw_cut(height)
            own[:, cut:] = other[:, cut:]
            areas = (0, 0, width, cut), (0, cut, width, height)
        return Mixed(size, partner, Part(1.0, areas[0]), Part(1.0, areas[1]))

    def labels(self, labels: list[Instances], batch: StudentBatch) -> list[Instances]:
        """The labels of both, with ``gt_weight`` (R,); of views that are not mixed it is 1.

        Pseudo-labels of a view that is split wait for a GPU once; true ones are cut on the host.
        """
        found = []
        for own, plan in zip(labels, self._plans, strict=True):
            if plan is None:
                found.append(cut_labels(own, Part(1.0), own.image_size, self._min_side))
                continue
            other = batch.labeled[plan.partner]["instances"]
            other = cut_labels(other, plan.other, plan.size, self._min_side)
            own = cut_labels(own, plan.own, plan.size, self._min_side)
            found.append(Instances.cat([own, to_device(other, own.gt_classes.device)]))
        return found


def draw_cut(side: int) -> int:
    """Where a side of a mixture is cut: a uniform integer from a quarter to three quarters."""
    return draw_integer(side // 4, 3 * side // 4 - 1)


def cut_labels(found: Instances, part: Part, size: tuple[int, int], min_side: float) -> Instances:
    """The labels of an image on the part of it that a mixture shows.

    Args:
        size: (height, width) of the mixture.
        min_side: boxes of which a side keeps no more than this share go.
    """
    boxes = found.gt_boxes.tensor
    labels = Instances(
        size,
        gt_boxes=found.gt_boxes,
        gt_classes=found.gt_classes,
        gt_weight=torch.full_like(boxes[:, 0], part.weight),
    )
    if part.area is None:
        return labels
    x1, y1, x2, y2 = part.area
    low = filled_like(boxes, [x1, y1, x1, y1])
    high = filled_like(boxes, [x2, y2, x2, y2])
    cut = torch.minimum(torch.maximum(boxes, low), high)
    kept = (cut[:, 2:] - cut[:, :2] > min_side * (boxes[:, 2:] - boxes[:, :2])).all(dim=1)
    labels.gt_boxes = Boxes(cut)
    return chosen(labels, kept)
