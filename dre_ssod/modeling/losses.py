"""KL regression loss of the Gaussian box head (section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_regression_loss(prediction: Tensor, target: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of a predicted Gaussian from a known coordinate, smoothed (eq. 8 and 9).

    Per coordinate, with d = abs(target - prediction) and alpha = log(sigma^2)::

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
