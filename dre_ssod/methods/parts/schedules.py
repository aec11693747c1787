"""What changes over a run: the teacher's decay, and the weight of unsupervised losses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """All that a schedule may depend on.

    Attributes:
        iteration: of the step, from 0.
        burn_in: iterations on labels alone, before the first pseudo-label.
        max_iter: of the run.
    """

    iteration: int
    burn_in: int
    max_iter: int


def ema_decay(step: int, maximum: float) -> float:
    """Decay of EMA step ``step`` (from 0): min(maximum, 1 - 1 / (step + 1)).

    The first step copies the student; until the bound is reached the teacher is the plain mean of
    the students so far. (DRE, section 3.1.)
    """
    return min(maximum, 1.0 - 1.0 / (step + 1))


def horizon_decay(horizon: float, max_iter: int) -> float:
    """The decay that looks back on a share of a run's iterations; 1, no bound, for a share of 0."""
    return max(0.0, 1.0 - 1.0 / (horizon * max_iter)) if horizon else 1.0


def constant_after_burn_in(iteration: int, burn_in: int, alpha: float) -> float | None:
    """Nothing until the end of the burn-in, then one copy of the student, then always ``alpha``.

    The last step of the burn-in makes the copy, so that the first labels are the student's own.
    """
    if iteration >= burn_in:
        return alpha
    return 0.0 if iteration == burn_in - 1 else None


def linear_ramp(done: int, iterations: int) -> float:
    """min(1, done / iterations); 1 where there is no ramp, of 0 iterations."""
    return min(1.0, done / iterations) if iterations else 1.0
