"""After CST, Cycle Self-Training (ACM MM 2022): only the structure of it is public.

Known: two students S_1, S_2 and two teachers T_1, T_2 in a ring. Each teacher is the moving average
of its own student and labels for the *other* one, which loosens the coupling of the two. A label
weighs by how consistent the class distributions of both teachers are on it.
Not known, and therefore chosen here:

- the weight of label b, with p_1 and p_2 the class probabilities that both teachers' heads give
  this box on the weak view, is ``w_b = 1 - JS(p_1 || p_2) / ln 2``, in [0, 1], with the
  Jensen-Shannon divergence JS. It multiplies the classification loss of the regions of b;
- all else is Unbiased Teacher: tau, focal loss, views, no boxes from pseudo-labels, burn-in;
- both students see the same labeled views, and strong views of the same geometry with pixels of
  their own. Their heads start apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor

from dre_ssod.data.mappers import LabeledPairMapper, UnlabeledPairMapper, UnlabeledViews
from dre_ssod.data.views.pixels import PixelRecipe
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.methods.mean_teacher import METHODS
from dre_ssod.methods.pairs.pair import Found, Pair
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.methods.unbiased.unbiased_teacher import UnbiasedTeacher
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.regions import Regions
from dre_ssod.structures import Mean, StudentLosses, UnlabeledSample
from dre_ssod.teacher import TeacherPass, observe


@METHODS.register()
class CSTLike(Pair, UnbiasedTeacher):
    """A ring of two Unbiased Teachers, with labels weighed by the teachers' agreement."""

    def mappers(self, cfg: CfgNode) -> tuple[LabeledPairMapper, UnlabeledViews]:
        recipe, pixels = ViewRecipe.weak(cfg), PixelRecipe()
        unlabeled = UnlabeledPairMapper(recipe, pixels, students=2)
        return LabeledPairMapper(recipe, pixels), unlabeled

    def find(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> tuple[Found, Found]:
        """T_2's labels for S_1 and T_1's for S_2, each with its ``gt_consistency`` (R,), w_b."""
        first, second = (
            observe(detector, samples, self.lowest_score) for detector in teacher.detectors
        )
        return (second, weighed(second, first)), (first, weighed(first, second))

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """Unbiased Teacher's focal loss, regions of b weighed by w_b and the background by 1."""
        weights = self.region_weights(cls)
        return StudentLosses(
            unsupervised={"loss_cls_unsup": cls.mean(weights * self.focal_losses(cls))},
            figures={"consistency": Mean.of(weights, cls.is_foreground)},
        )

    def region_weights(self, cls: Regions) -> Tensor:
        """w_b of a region of b, 1 of background."""
        return torch.where(cls.is_foreground, cls.matched("gt_consistency"), 1.0).detach()


@torch.no_grad()
def weighed(own: TeacherPass, other: TeacherPass) -> list[Instances]:
    """A teacher's detections with ``gt_consistency``: how much the other one agrees, w_b."""
    boxes = [found.gt_boxes for found in own.detections]
    p, q = (seen.rescore(boxes).probabilities for seen in (own, other))
    weights = consistency(p, q).split([len(found) for found in own.detections])
    for found, weight in zip(own.detections, weights, strict=True):
        found.gt_consistency = weight
    return own.detections


def consistency(p: Tensor, q: Tensor) -> Tensor:
    """``1 - JS(p || q) / ln 2`` of (R, K + 1) probabilities: 1 where equal, 0 where disjoint.

    ``JS(p || q) = (KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2``.
    """
    m = (p + q) / 2.0
    divergence = sum(torch.special.xlogy(x, x / m).nan_to_num().sum(dim=1) for x in (p, q)) / 2.0
    return (1.0 - divergence / math.log(2.0)).clamp(0.0, 1.0)
