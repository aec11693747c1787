"""Positive-proposal consistency voting of PseCo (Li et al., ECCV 2022): weights of the box loss.

The boxes that the student predicts from the positive regions of a well-placed label agree with it;
around a misplaced one they scatter. So a label g weighs the mean IoU of g with those boxes. With N
regions, of which the positive ones P have label g(i)::

    w_g = mean over the regions i of g of IoU(student's box i, g)
    L_u^reg = 1 / N * (sum_P w_g(i) / sum_P w_g(i)^2) * sum_P w_g(i)^2 * L_i

Equal losses L give sum_P w * L / N: the sum of the weights is that of w, and the square only shifts
it towards the labels that are placed better.
"""

from __future__ import annotations

import torch
from detectron2.layers import cat
from detectron2.structures.boxes import Boxes, matched_pairwise_iou
from torch import Tensor

from dre_ssod.methods.parts.per_label import mean_per_label
from dre_ssod.modeling.counts import shared_totals
from dre_ssod.modeling.regions import Regions


@torch.no_grad()
def consistency_weights(box: Regions, trained: Tensor | None = None) -> Tensor:
    """(R,) factor of each region's box loss, without gradient; 0 for background.

    The sums run over the regions of all processes, which must all call this, each with the weight
    of its image.

    Args:
        trained: (R,) which regions have a box loss; the others are no regions of P. None: all.
    """
    votes = mean_per_label(iou_with_label(box), box)
    if trained is not None:
        votes = torch.where(trained, votes, 0.0)
    squared = votes.square()
    total, total_squared = shared_totals(box.weighted(votes), box.weighted(squared))
    return total / total_squared.clamp(min=1e-12) * squared


def iou_with_label(box: Regions) -> Tensor:
    """(R,) IoU of the box that the student predicts from a region with its label."""
    proposals = cat([found.proposal_boxes.tensor for found in box.sampled])
    predicted = box.predictor.box2box_transform.apply_deltas(box.offsets[0].float(), proposals)
    labels = cat(
        [
            (found.gt_boxes if found.has("gt_boxes") else found.proposal_boxes).tensor
            for found in box.sampled
        ]
    )
    iou: Tensor = matched_pairwise_iou(Boxes(predicted), Boxes(labels))
    # A region without area has no overlap.
    return iou.nan_to_num()
