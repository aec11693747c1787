"""Whether the predicted standard deviations of box edges are the true ones.

Pure functions over standardized residuals z = (predicted - true edge) / sigma. If sigma is right
they follow the unit Gaussian: mean 0, deviation 1, and p of them lie in its central interval of
probability p.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from dre_ssod.evaluation.localization import FloatArray

COORDINATES = ("x1", "y1", "x2", "y2")
LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Probabilities of the central intervals whose coverage is reported."""


@dataclass(frozen=True)
class Reliability:
    """How the residuals of one coordinate compare with the unit Gaussian.

    Attributes:
        n: number of residuals.
        mean: 0 if edges lie to either side of the truth equally; in sigmas.
        deviation: root mean square about 0; 1 if sigma is right, above 1 if it is too small. None
            without residuals, as ``mean``.
        coverage: observed share in the central interval of each of ``LEVELS``; empty without
            residuals.
        miscalibration: mean absolute difference of observed and expected coverage.
    """

    n: int
    mean: float | None
    deviation: float | None
    coverage: tuple[float, ...]
    miscalibration: float | None


def coverage(residuals: FloatArray, levels: tuple[float, ...] = LEVELS) -> FloatArray:
    """Share of (R,) residuals in the Gaussian's central interval of each probability, (L,)."""
    bounds = stats.norm.ppf((1.0 + np.asarray(levels)) / 2.0)
    shares: FloatArray = (np.abs(residuals)[:, None] <= bounds[None, :]).mean(axis=0)
    return shares


def measure(residuals: FloatArray) -> Reliability:
    """Reliability over (R,) residuals; those that are not finite are left out."""
    residuals = residuals[np.isfinite(residuals)]
    if len(residuals) == 0:
        return Reliability(0, None, None, (), None)
    observed = coverage(residuals)
    return Reliability(
        n=len(residuals),
        mean=float(residuals.mean()),
        deviation=float(np.sqrt(np.mean(residuals**2))),
        coverage=tuple(float(share) for share in observed),
        miscalibration=float(np.abs(observed - LEVELS).mean()),
    )


def reliability(residuals: FloatArray) -> dict[str, Reliability]:
    """Reliability by coordinate, and of ``all`` four together, over (D, 4) residuals."""
    found = {name: measure(residuals[:, k]) for k, name in enumerate(COORDINATES)}
    return {**found, "all": measure(residuals.reshape(-1))}
