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


def best_quality(rescaled: bool) -> float:
    """:func:`localization_quality` of a box without any variance."""
    return 1.0 if rescaled else 0.5


def kl_regression_loss(
    prediction: Tensor, target: Tensor, log_variance: Tensor, beta: float = 0.0
) -> Tensor:
    """KL divergence of a predicted Gaussian from a known coordinate, smoothed (eq. 8 and 9).

    Per coordinate, with d = abs(target - prediction)::

        exp(-alpha) * d^2 / 2   + alpha / 2    if d <= 1    (eq. 8)
        exp(-alpha) * (d - 1/2) + alpha / 2    otherwise    (eq. 9)

    It equals the KL divergence up to a constant, so it can be negative. With alpha = 0 it is smooth
    L1 whose break lies at 1.

    ``beta`` above 0 multiplies each coordinate's loss by ``sigma^(2 beta)``, taken as a constant
    (beta-NLL of Seitzer et al., *On the Pitfalls of Heteroscedastic Uncertainty Estimation*, 2022).
    The best alpha stays where it is, while the gradient by t^e becomes ``exp((beta - 1) alpha)``
    times that of smooth L1: at 1 a large variance no longer keeps boxes from being learned.

    Args:
        prediction, target: (R, 4) coded box offsets t^e and t^g.
        log_variance: (R, 4) alpha, in the same units squared, in log.
        beta: in [0, 1]; 0 is the paper's loss.

    Returns:
        (R,) the sum over the four coordinates, at least in float32.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    prediction, target = prediction.to(dtype), target.to(dtype)
    log_variance = log_variance.to(dtype)
    distance = (target - prediction).abs()
    error = torch.where(distance <= 1, 0.5 * distance.square(), distance - 0.5)
    losses = torch.exp(-log_variance) * error + 0.5 * log_variance
    if beta:
        losses = torch.exp(beta * log_variance.detach()) * losses
    return losses.sum(dim=1)
