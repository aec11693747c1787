"""How a teacher follows its student, other than by the ramp of ``mean_teacher.ema_decay``."""

from __future__ import annotations


def constant_after_burn_in(iteration: int, burn_in: int, alpha: float) -> float | None:
    """Nothing until the end of the burn-in, then one copy of the student, then always ``alpha``.

    The last step of the burn-in makes the copy, so that the first labels are the student's own.
    """
    if iteration >= burn_in:
        return alpha
    return 0.0 if iteration == burn_in - 1 else None
