"""Warnings about pseudo-labels while a run trains: none for long, or far too many."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from detectron2.engine import HookBase

from dre_ssod.engine.metrics import PREFIX

logger = logging.getLogger(__name__)

BOX_WINDOW = 200
"""Iterations over which pseudo-boxes are compared with labeled boxes, in a run long enough."""
_LEAST = 10
"""Iterations of which fewer say nothing: a warning would come of a single batch."""


def box_window(iterations: int) -> int:
    """Iterations over which boxes are compared in a run of so many iterations with pseudo-labels.

    A quarter of a short run, so that it is warned in time to do something about it, but not of what
    a few batches hold.
    """
    return max(_LEAST, min(BOX_WINDOW, iterations // 4))


class PseudoLabelWatch(HookBase):
    """Warns when pseudo-labels are missing or far more than labels; for the main process.

    It reads the figures that the step has written, so it costs no further synchronization.
    """

    def __init__(
        self,
        max_silence: int,
        max_ratio: float,
        window: int = BOX_WINDOW,
        threshold_key: str = "SSOD.SCORE_THRESHOLD",
    ) -> None:
        """
        Args:
            max_silence: ``SSOD.WARN_NO_PSEUDO_LABELS_ITERS``; 0: never warn.
            max_ratio: ``SSOD.WARN_PSEUDO_BOX_RATIO``; 0: never warn.
            window: iterations over which boxes are compared; at most one warning in as many.
            threshold_key: of the method's score threshold.
        """
        self._max_silence = max_silence
        self._max_ratio = max_ratio
        self._threshold_key = threshold_key
        self._silence = 0
        self._boxes: deque[tuple[float, float]] = deque(maxlen=window)

    def after_step(self) -> None:
        pseudo = self._figure("pseudo_boxes_per_image")
        if pseudo is None:
            return
        self._silence = 0 if pseudo > 0.0 else self._silence + 1
        if self._max_silence and self._silence and self._silence % self._max_silence == 0:
            logger.warning(
                "No pseudo-label for %d iterations: the unlabeled images teach nothing. Normal "
                "early in training; if it stays, lower %s, raise "
                "SSOD.BURN_IN_ITERS so that the teacher knows more before it labels, or start "
                "from pretrained MODEL.WEIGHTS.",
                self._silence,
                self._threshold_key,
            )
        self._boxes.append((pseudo, self._figure("labeled_boxes_per_image") or 0.0))
        if self._max_ratio and len(self._boxes) == self._boxes.maxlen:
            self._compare()

    def _compare(self) -> None:
        pseudo, labeled = (
            sum(boxes) / len(self._boxes) for boxes in zip(*self._boxes, strict=True)
        )
        if pseudo > self._max_ratio * labeled:
            logger.warning(
                "%.1f pseudo-boxes per unlabeled image against %.1f boxes per labeled image, over "
                "%d iterations, is more than SSOD.WARN_PSEUDO_BOX_RATIO %g allows: raise "
                "%s, lower SSOD.UNSUP_LOSS_WEIGHT, and check that the labeled "
                "images have all of their boxes.",
                pseudo,
                labeled,
                len(self._boxes),
                self._max_ratio,
                self._threshold_key,
            )
            self._boxes.clear()

    def _figure(self, name: str) -> float | None:
        """What this iteration has written; None if it has not."""
        value, iteration = self.trainer.storage.latest().get(PREFIX + name, (0.0, -1))
        return float(value) if iteration == self.trainer.iter else None

    def state_dict(self) -> dict[str, Any]:
        """The length of the silence; boxes are compared from the start again after a resume."""
        return {"silence": self._silence}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._silence = state_dict["silence"]
