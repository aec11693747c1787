"""Focal loss over classes (Lin et al., ICCV 2017), as Unbiased Teacher has it: without alpha."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(logits: Tensor, classes: Tensor, gamma: float) -> Tensor:
    """``(1 - p)^gamma * -log p``, with p the probability of each region's own class.

    Args:
        logits: (R, K + 1), the background last.
        classes: (R,) in [0, K].
        gamma: 0 is the cross-entropy; larger, and what is classified well counts less.

    Returns:
        (R,) in float32.
    """
    entropy = F.cross_entropy(logits.float(), classes, reduction="none")
    # 1 - p; its power has no finite slope at 0, where the loss is 0 anyhow.
    missing = -torch.expm1(-entropy)
    return missing.clamp(min=torch.finfo(torch.float32).tiny) ** gamma * entropy
