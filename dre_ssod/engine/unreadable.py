"""Unreadable images: counted over all processes and named; too many of them stop a run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.utils import comm

from dre_ssod.errors import UserError
from dre_ssod.structures import ImageFailure, TrainingBatch

logger = logging.getLogger(__name__)

FEW_IMAGES = 1000
"""Fewer drawn images than this count as this many, so that one bad image is no large share."""

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
        """The counts, which a resumed run continues."""
        return {"drawn": self.drawn, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.drawn, self.skipped = state_dict["drawn"], state_dict["skipped"]
