"""Signs that a run goes wrong: images that cannot be read, too few pseudo-labels, too many."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from dre_ssod.engine.metrics import PREFIX
from dre_ssod.errors import UserError
from dre_ssod.structures import ImageFailure, TrainingBatch

logger = logging.getLogger(__name__)

FEW_IMAGES = 1000
"""Fewer drawn images than this count as this many, so that one bad image is no large share."""
BOX_WINDOW = 200
"""Iterations over which pseudo-boxes are compared with labeled boxes."""

_HELP = "tools/check_dataset.py lists every bad file: repair or remove them"


class UnreadableImages:
    """Counts the images of all processes that could not be read, names them, and stops the run."""

    def __init__(self, max_share: float) -> None:
        """
        Args:
            max_share: ``DATALOADER.MAX_UNREADABLE_SHARE``.
        """
        self._max_share = max_share
        self._named: set[str] = set()
        self.drawn = 0
        self.skipped = 0

    def check_complete(self, batches: Iterable[TrainingBatch]) -> None:
        """Refuse a batch that lacks an image, on the process that has it.

        Raises:
            UserError: if the loader gave up on a place.
        """
        failures = [failure for batch in batches for failure in batch.failures]
        if not all(failure.replaced for failure in failures):
            self._name(failures)
            last = next(failure for failure in failures if not failure.replaced)
            raise UserError(
                "every image that was tried for one place in a batch cannot be read, the last: "
                f"{last.message}. {_HELP}."
            )

    def update(self, failures: Sequence[ImageFailure], drawn: int, skipped: int) -> None:
        """Count one step. The same on every process, but for ``failures``.

        Args:
            failures: of this process.
            drawn, skipped: images of all processes in this step, ``skipped`` among ``drawn``.

        Raises:
            UserError: on every process, if too many images could not be read so far.
        """
        self.drawn += drawn
        self.skipped += skipped
        if not skipped:
            return
        self._name(itertools.chain.from_iterable(comm.gather(tuple(failures))))
        if self.skipped > self._max_share * max(self.drawn, FEW_IMAGES):
            raise UserError(
                f"{self.skipped} of the {self.drawn} images drawn so far could not be read, more "
                f"than DATALOADER.MAX_UNREADABLE_SHARE {self._max_share} allows (fewer than "
                f"{FEW_IMAGES} images count as {FEW_IMAGES}); the log names them. {_HELP}, or "
                "raise DATALOADER.MAX_UNREADABLE_SHARE."
            )

    def _name(self, failures: Iterable[ImageFailure]) -> None:
        """Log each file once in the life of the process."""
        for failure in failures:
            if failure.file_name not in self._named:
                self._named.add(failure.file_name)
                logger.warning("Skipped an image, another takes its place: %s", failure.message)

    def state_dict(self) -> dict[str, Any]:
        """The counts, so that a resumed run goes on counting."""
        return {"drawn": self.drawn, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.drawn, self.skipped = state_dict["drawn"], state_dict["skipped"]


class PseudoLabelWatch(HookBase):
    """Warns when pseudo-labels are missing or far more than labels; for the main process.

    It reads the figures that the step has written, so it costs no further synchronization.
    """

    def __init__(self, max_silence: int, max_ratio: float, window: int = BOX_WINDOW) -> None:
        """
        Args:
            max_silence: ``SSOD.WARN_NO_PSEUDO_LABELS_ITERS``; 0: never warn.
            max_ratio: ``SSOD.WARN_PSEUDO_BOX_RATIO``; 0: never warn.
            window: iterations over which boxes are compared; at most one warning in as many.
        """
        self._max_silence = max_silence
        self._max_ratio = max_ratio
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
                "early in training; if it stays, lower SSOD.SCORE_THRESHOLD, raise "
                "SSOD.BURN_IN_ITERS so that the teacher knows more before it labels, or start "
                "from pretrained MODEL.WEIGHTS.",
                self._silence,
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
                "%.1f pseudo-boxes an unlabeled image against %.1f boxes a labeled image, over %d "
                "iterations, is more than SSOD.WARN_PSEUDO_BOX_RATIO %g allows: raise "
                "SSOD.SCORE_THRESHOLD, lower SSOD.UNSUP_LOSS_WEIGHT, and check that the labeled "
                "images have all of their boxes.",
                pseudo,
                labeled,
                len(self._boxes),
                self._max_ratio,
            )
            self._boxes.clear()

    def _figure(self, name: str) -> float | None:
        """What this iteration has written; None if it has not."""
        value, iteration = self.trainer.storage.latest().get(PREFIX + name, (0.0, -1))
        return float(value) if iteration == self.trainer.iter else None

    def state_dict(self) -> dict[str, Any]:
        """The length of the silence; boxes are compared anew after a resume."""
        return {"silence": self._silence}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._silence = state_dict["silence"]
