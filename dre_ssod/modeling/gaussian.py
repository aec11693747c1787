"""The Gaussian of a box coordinate: its loss and what it says about a box (sections 3.2 and 3.3).

The head predicts each coded coordinate t as a Gaussian around t^e (eq. 4)::

    P(t) = 1 / sqrt(2 pi sigma^2) * exp(-(t - t^e)^2 / (2 sigma^2)),    alpha = log(sigma^2)

A label is known exactly: a Dirac delta at t^g (eq. 6). Minimizing the divergence of the two (eq. 7)
is, up to a constant, minimizing the negative log-likelihood of the label: eq. 8, smoothed in eq. 9.
"""

from __future__ import annotations

import torch
from torch import Tensor


def localization_quality(log_variance: Tensor, rescale: bool = False) -> Tensor:
    """How well the head believes a box to be placed: s_loc = 1 - sigmoid(mean_k sigma_k^2) (eq. 5).

    Args:
        log_variance: (R, 4) alpha of the coded box offsets.
        rescale: multiply by 2, so that a certain box scores 1 instead of 0.5.

    Returns:
        (R,) float32 in (0, 0.5), or (0, 1) when rescaled. 0.269 where alpha is 0.
    """
    mean_variance = log_variance.to(torch.promote_types(log_variance.dtype, torch.float32))
    mean_variance = mean_variance.exp().mean(dim=1)
    quality = torch.sigmoid(-mean_variance)
    return 2.0 * quality if rescale else quality


def kl_regression_loss(prediction: Tensor, target: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of a predicted Gaussian from a known coordinate, smoothed (eq. 8 and 9).

    Per coordinate, with d = abs(target - prediction)::

        exp(-alpha) * d^2 / 2   + alpha / 2    if d <= 1    (eq. 8)
        exp(-alpha) * (d - 1/2) + alpha / 2    otherwise    (eq. 9)

    It equals the KL divergence up to a constant, so it can be negative. With alpha = 0 it is smooth
    L1 with beta 1.

    Args:
        prediction, target: (R, 4) coded box offsets t^e and t^g.
        log_variance: (R, 4) alpha, in the same units squared, in log.

    Returns:
        (R,) the sum over the four coordinates, at least in float32.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    prediction, target = prediction.to(dtype), target.to(dtype)
    log_variance = log_variance.to(dtype)
    distance = (target - prediction).abs()
    error = torch.where(distance <= 1, 0.5 * distance.square(), distance - 0.5)
    return (torch.exp(-log_variance) * error + 0.5 * log_variance).sum(dim=1)
