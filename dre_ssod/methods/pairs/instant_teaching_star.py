"""Instant-Teaching* (Zhou et al., CVPR 2021): two detectors that rectify each other's labels.

Detectors A and B start from one backbone with heads of their own, see views and mixtures of their
own, and label the same weak view. Their detections together, U, are looked at again, twice (the
paper's co-rectify, as its public code has it). With score s and class c of a box b, and
q = s * onehot(c)::

    each head m on U:      p~ = (p_m + q) / 2        b~ = (s b + r_m b_m) / (s + r_m)
    U' = U by A, U by B, and U itself, with s' the best class of p'
    B judges U' for A:     p'' = (p_B + p') / 2      b'' = (s' b' + s'' b_B) / (s' + s'')

p_m and b_m are what head m says of the box: the probabilities, and the box of its best class, which
has the probability r_m. A learns from what NMS leaves of (b'', p'') from tau on; A judges for B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import batched_nms

from dre_ssod.data.mappers import LabeledMapper, LabeledTwiceMapper, UnlabeledViews
from dre_ssod.geometry import clip_boxes
from dre_ssod.methods.instant_teaching import InstantTeaching
from dre_ssod.methods.mean_teacher import METHODS
from dre_ssod.methods.pairs.pair import Found, Pair
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.structures import FURTHER_VIEWS, TrainingBatch, UnlabeledSample
from dre_ssod.teacher import TeacherPass, observe
from dre_ssod.transfers import HostCopy


@METHODS.register()
class InstantTeachingStar(Pair, InstantTeaching):
    """Instant-Teaching with co-rectify: L = L_A + L_B."""

    # Views: each detector has its own labeled view and its own strong view

    def mappers(self, cfg: CfgNode) -> tuple[LabeledMapper, UnlabeledViews]:
        return LabeledTwiceMapper.from_config(cfg), self.unlabeled_mapper(cfg, students=2)

    def labeled_views(
        self, batch: TrainingBatch
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return batch.labeled, [view for image in batch.labeled for view in image[FURTHER_VIEWS]]

    # Labels

    def find(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> tuple[Found, Found]:
        """B's verdict for A and A's for B."""
        tau: float = self.settings.score_threshold
        a, b = (observe(detector, samples, tau) for detector in teacher.detectors)
        predictor = teacher.roi_heads.box_predictor
        raw = [
            Candidates.of_detections(Instances.cat(list(pair)), predictor.num_classes)
            for pair in zip(a.detections, b.detections, strict=True)
        ]
        seen = [
            Candidates.cat(of_image)
            for of_image in zip(rectified(a, raw), rectified(b, raw), raw, strict=True)
        ]

        def verdict(judge: TeacherPass) -> Found:
            judged = rectified(judge, seen, final=True)
            limits = predictor.test_nms_thresh, predictor.test_topk_per_image
            return judge, labels_of(judged, tau, *limits)

        return verdict(b), verdict(a)


@dataclass(frozen=True)
class Candidates:
    """Boxes of one weak view that may become labels.

    Attributes:
        size: (height, width) of the view.
        boxes: (R, 4).
        probabilities: (R, K + 1); their sum may be below 1.
    """

    size: tuple[int, int]
    boxes: Tensor
    probabilities: Tensor

    @classmethod
    def of_detections(cls, found: Instances, num_classes: int) -> Candidates:
        """Detections with q for their probabilities."""
        # F.one_hot looks at the classes, for which the host waits for a GPU.
        every = torch.arange(num_classes + 1, device=found.gt_classes.device)
        q = found.gt_scores[:, None] * (found.gt_classes[:, None] == every)
        return cls(found.image_size, found.gt_boxes.tensor, q)

    @classmethod
    def cat(cls, parts: Sequence[Candidates]) -> Candidates:
        """Those of one view together."""
        boxes = torch.cat([part.boxes for part in parts])
        return cls(parts[0].size, boxes, torch.cat([part.probabilities for part in parts]))

    def best(self) -> tuple[Tensor, Tensor]:
        """(R,) probability and (R,) class of the best foreground class."""
        scores, classes = self.probabilities[:, :-1].max(dim=1)
        return scores, classes


def labels_of(
    candidates: Sequence[Candidates], tau: float, nms_iou: float, most: int
) -> list[Instances]:
    """What NMS within each view and class leaves of those that reach tau.

    All views at once, for which the host waits for a GPU once.

    Args:
        most: labels of a view.
    """
    together = Candidates.cat(candidates)
    scores, classes = together.best()
    views = torch.repeat_interleave(torch.tensor([len(view.boxes) for view in candidates]))
    views = views.to(classes.device, non_blocking=True)
    groups = views * (together.probabilities.shape[1] - 1) + classes
    # Groups are moved apart for NMS, so far that float32 would round the boxes. Those below tau
    # take part: they suppress none that scores higher.
    kept = batched_nms(together.boxes.double(), scores.double(), groups, nms_iou)
    owners = HostCopy(torch.where(scores[kept] >= tau, views[kept], -1)).read()
    found = []
    for number, view in enumerate(candidates):
        rows = (owners == number).nonzero()[:most, 0].to(kept.device, non_blocking=True)
        rows = kept[rows]
        found.append(
            Instances(
                view.size,
                gt_boxes=Boxes(together.boxes[rows]),
                gt_classes=classes[rows],
                gt_scores=scores[rows],
            )
        )
    return found


def rectified(
    judge: TeacherPass, given: Sequence[Candidates], final: bool = False
) -> list[Candidates]:
    """Candidates of each view, averaged with what a detector says of their boxes.

    Args:
        final: its boxes weigh the best class of both together, s'', and not its own, r.
    """
    counts = [len(candidates.boxes) for candidates in given]
    scores = judge.rescore([Boxes(candidates.boxes) for candidates in given])
    said, best = scores.probabilities[:, :-1].max(dim=1)
    parts = [rows.split(counts) for rows in (scores.probabilities, said, scores.refined(best))]
    return [_averaged(*of_view, final=final) for of_view in zip(given, *parts, strict=True)]


def _averaged(
    own: Candidates, probabilities: Tensor, said: Tensor, refined: Tensor, *, final: bool
) -> Candidates:
    mean = Candidates(own.size, own.boxes, (own.probabilities + probabilities) / 2.0)
    before, after = own.best()[0], mean.best()[0] if final else said
    total = (before + after)[:, None]
    moved = (before[:, None] * own.boxes + after[:, None] * clip_boxes(refined, own.size)) / total
    return Candidates(own.size, moved, mean.probabilities)
