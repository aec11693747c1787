"""Localization quality score: how well the head believes a box to be placed (section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def localization_quality(log_variance: Tensor, rescale: bool = False) -> Tensor:
    """s_loc = 1 - sigmoid(mean_k sigma_k^2) (eq. 5).

    Args:
        log_variance: (R, 4) alpha = log(sigma^2) of the coded box offsets.
        rescale: multiply by 2, so that a certain box scores 1 instead of 0.5.

    Returns:
        (R,) float32 in (0, 0.5), or (0, 1) when rescaled. 0.269 where alpha is 0.
    """
    mean_variance = log_variance.to(torch.promote_types(log_variance.dtype, torch.float32))
    mean_variance = mean_variance.exp().mean(dim=1)
    quality = torch.sigmoid(-mean_variance)
    return 2.0 * quality if rescale else quality
