"""Losses and gradients that are infinite or NaN: named, and kept out of weights and statistics."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from dre_ssod.engine.metrics import StepTotals
from dre_ssod.engine.running_statistics import RunningStatistics

MAX_IN_A_ROW = 100
"""Skipped steps in a row that stop a run."""
MAX_OVERFLOWS = 32
"""Overflows in a row that gradient scaling explains: each halves its factor, at first 2^16."""

_ADVICE = (
    "The weights of the last checkpoint are from before this step. Lower SOLVER.BASE_LR, lengthen "
    "SOLVER.WARMUP_ITERS or set SOLVER.CLIP_GRADIENTS.ENABLED True."
)

logger = logging.getLogger(__name__)


class NonfiniteGuard:
    """Decides after the backward pass whether a step may change the weights.

    Every process decides the same, from figures that are summed over all of them.
    """

    def __init__(
        self,
        student: nn.Module,
        statistics: RunningStatistics,
        grad_scaler: torch.amp.GradScaler,
        skip: bool,
    ) -> None:
        """
        Args:
            student: without its DDP wrapper.
            statistics: of the student, put back where a step is skipped.
            grad_scaler: skips steps whose gradients overflow float16, which is normal.
            skip: whether a step that is not finite is skipped and counted; else it is an error.
        """
        self._student = student
        self._grad_scaler = grad_scaler
        self._skip = skip
        self._statistics = statistics
        self._overflows = 0
        self._in_a_row = 0
        self.skipped = 0

    def before_forward(self) -> None:
        """Note what a forward pass changes."""
        if self._skip:
            self._statistics.remember()

    def gradient_norm(self) -> Tensor:
        """The norm of all gradients together, a scalar on their device."""
        gradients = [p.grad for p in self._student.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def accepts(self, totals: StepTotals, where: str) -> bool:
        """Whether the optimizer may step.

        Args:
            totals: of the step.
            where: iteration and images, for messages.

        Raises:
            FloatingPointError: on every process, if not and the step is not to be skipped.
        """
        what = self._find(totals)
        if what is None:
            self._in_a_row = 0
            return True
        self.refuse(what, where)
        return False

    def refuse(self, what: str, where: str) -> None:
        """Undo the forward passes of a step that is not finite, and count it.

        Raises:
            FloatingPointError: if it is not to be skipped.
        """
        if not self._skip:
            raise FloatingPointError(f"{where}: {what} {_ADVICE}")
        self._statistics.restore()
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= MAX_IN_A_ROW:
            raise FloatingPointError(
                f"{where}: {what} This is step {self._in_a_row} in a row that was skipped "
                f"(SOLVER.ON_NONFINITE 'skip'): the run does not recover. {_ADVICE}"
            )
        logger.warning("Skipped a step, %d so far. %s: %s", self.skipped, where, what)

    def refuse_forward(self, error: FloatingPointError, where: str) -> None:
        """The same for a forward pass that broke off.

        Raises:
            FloatingPointError: also where there are several processes: the others cannot know.
        """
        if comm.get_world_size() > 1:
            raise FloatingPointError(f"{where}: {error} {_ADVICE}") from error
        self.refuse(str(error), where)

    def _find(self, totals: StepTotals) -> str | None:
        """What is not finite, and is no overflow that the gradient scaler is there for."""
        if totals.broken_losses:
            return f"{totals.broken_losses} (all losses: {totals.losses})."
        if math.isfinite(totals.gradient_norm):
            self._overflows = 0
            return None
        self._overflows += 1
        if self._grad_scaler.is_enabled() and self._overflows <= MAX_OVERFLOWS:
            return None
        return f"gradients that are not finite: {_list(self._broken_parameters())}."

    def _broken_parameters(self) -> list[str]:
        return [
            name
            for name, parameter in self._student.named_parameters()
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        ]

    def state_dict(self) -> dict[str, Any]:
        """The counts, which a resumed run continues."""
        return {
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
            "overflows": self._overflows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.skipped = state["skipped"]
        self._in_a_row = state["in_a_row"]
        self._overflows = state["overflows"]


def _list(names: Sequence[str]) -> str:
    """At most eight names; a norm may overflow where no single gradient does."""
    if not names:
        return "their norm alone overflows"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
