"""The two reweighted losses on unlabeled images: LER (eq. 11) and PRC (eq. 12 to 14).

Weights never carry a gradient, and a loss is never divided by their sum: a batch of unreliable
regions is meant to teach less. Counts come from :mod:`dre_ssod.modeling.counts`.
"""

from __future__ import annotations

import torch
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.structures import ProposalScores


def ler_box_loss(
    prediction: Tensor,
    target: Tensor,
    quality: Tensor | None,
    normalizer: Tensor,
    beta: float = 1.0,
) -> Tensor:
    """Smooth L1 weighted by the localization quality of the matched pseudo-label (eq. 11).

    Args:
        prediction, target: (R, 4) coded offsets; of background regions, which add nothing, equal.
        quality: (R,) s_loc of each region's pseudo-label; None for weight 1 (LER off).
        normalizer: scalar that the sum is divided by.
        beta: where smooth L1 turns from quadratic to linear.

    Returns:
        scalar; zero, and still tied to the graph, without regions.
    """
    loss = smooth_l1_loss(prediction.float(), target.float(), beta=beta).sum(dim=1)
    if quality is not None:
        loss = quality.detach() * loss
    return loss.sum() / normalizer


def proposal_reliability(scores: ProposalScores, is_foreground: Tensor) -> Tensor:
    """PRC weight of each region: eq. 12 for foreground regions, eq. 13 for background ones.

    Args:
        scores: the teacher's opinion of the R regions, with localization quality.
        is_foreground: (R,) bool, the student's label assignment.

    Returns:
        (R,) in [0, 1], without gradient.

    Raises:
        ValueError: if the teacher has no variance branch.
    """
    if scores.localization_quality is None:
        raise ValueError(
            "PRC needs the variance branch (eq. 12 uses s_loc): set "
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE to 'kl' or SSOD.PRC.ENABLED to False."
        )
    foreground = scores.foreground * scores.localization_quality
    return torch.where(is_foreground, foreground, scores.background).detach()


def prc_classification_loss(
    logits: Tensor,
    classes: Tensor,
    weights: Tensor | None,
    foreground_normalizer: Tensor,
    background_normalizer: Tensor,
) -> Tensor:
    """Reweighted cross-entropy: a mean over foreground plus a mean over background (eq. 14).

    Args:
        logits: (R, K + 1), the background last.
        classes: (R,) in [0, K], assigned from the pseudo-labels.
        weights: (R,) s_fg or s_bg of each region; None for weight 1 (PRC off).
        foreground_normalizer, background_normalizer: scalars N_fg and N_bg. Passing the number of
            sampled regions as both gives Faster R-CNN's plain mean.

    Returns:
        scalar; zero, and still tied to the graph, without regions.
    """
    loss = F.cross_entropy(logits.float(), classes, reduction="none")
    if weights is not None:
        loss = weights.detach() * loss
    is_foreground = classes < logits.shape[1] - 1
    divisor = torch.where(is_foreground, foreground_normalizer, background_normalizer)
    return (loss / divisor).sum()
