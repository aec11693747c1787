"""Warnings while a run trains: pseudo-labels are missing, too many, or about to multiply."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor

from dre_ssod.data.splits.pools import Pools
from dre_ssod.engine.metrics import PREFIX, ClassCounts
from dre_ssod.errors import printable
from dre_ssod.methods import MeanTeacher
from dre_ssod.methods.parts.labeled_classes import boxes_per_image

logger = logging.getLogger(__name__)

BOX_WINDOW = 200
"""Iterations over which pseudo-boxes are compared with labeled boxes, in a run long enough."""
_LEAST = 10
"""Iterations of which fewer say nothing: a warning would come of a single batch."""
_FEWEST = 20.0
"""Boxes of a class that must be expected before their absence says something."""
_NAMED = 10
"""Classes that a warning names."""
_MOST_WEIGHT = 8.0
"""Times that a foreground region may count in two means what it counts in one, unmentioned."""


def box_window(iterations: int) -> int:
    """Iterations over which boxes are compared in a run of so many iterations with pseudo-labels.

    A quarter of a short run, so that it is warned in time to do something about it, but not of what
    a few batches hold.
    """
    return max(_LEAST, min(BOX_WINDOW, iterations // 4))


def build_watches(
    cfg: CfgNode, method: MeanTeacher, pools: Pools, pseudo_boxes: ClassCounts
) -> list[HookBase]:
    """The warnings of a run; none where its method has no unlabeled images.

    Args:
        pseudo_boxes: that the steps count.
    """
    if not method.uses_unlabeled:
        return []
    window = box_window(cfg.SOLVER.MAX_ITER - cfg.SSOD.BURN_IN_ITERS)
    more, fewer = (method.label_advice(more) for more in (True, False))
    found: list[HookBase] = [TwoMeansWatch(window)] if method.has_two_means else []
    return [
        *found,
        PseudoLabelWatch(
            *(cfg.SSOD.WARN_NO_PSEUDO_LABELS_ITERS, cfg.SSOD.WARN_PSEUDO_BOX_RATIO),
            window=window,
            more=more,
            fewer=fewer,
            drawn=len(pools.labeled) / pools.looked_at,
        ),
        ClassWatch(
            pseudo_boxes,
            pools.classes,
            boxes_per_image(pools),
            cfg.SSOD.WARN_CLASS_SHARE,
            window=window,
            more=more,
            is_by_rank=method.labels_by_rank(cfg),
        ),
    ]


class FigureWatch(HookBase):
    """Reads the figures that the step has written, so it costs no further synchronization.

    For the main process.
    """

    def figure(self, name: str) -> float | None:
        """What this iteration has written; None if it has not."""
        value, iteration = self.trainer.storage.latest().get(PREFIX + name, (0.0, -1))
        return float(value) if iteration == self.trainer.iter else None


class PseudoLabelWatch(FigureWatch):
    """Warns when pseudo-labels are missing or far more than labels."""

    def __init__(
        self,
        max_silence: int,
        max_ratio: float,
        window: int = BOX_WINDOW,
        more: str = "lower SSOD.SCORE_THRESHOLD",
        fewer: str = "raise SSOD.SCORE_THRESHOLD",
        drawn: float = 1.0,
    ) -> None:
        """
        Args:
            max_silence: ``SSOD.WARN_NO_PSEUDO_LABELS_ITERS``; 0: never warn.
            max_ratio: ``SSOD.WARN_PSEUDO_BOX_RATIO``; 0: never warn.
            window: iterations over which boxes are compared; at most one warning in as many.
            more, fewer: what to do for more and for fewer labels (``MeanTeacher.label_advice``).
            drawn: share of the labeled images that batches are drawn from; the others have no box.
        """
        self._max_silence = max_silence
        self._max_ratio = max_ratio
        self._more, self._fewer = more, fewer
        self._drawn = drawn
        self._silence = 0
        self._boxes: deque[tuple[float, float]] = deque(maxlen=window)

    def after_step(self) -> None:
        pseudo = self.figure("pseudo_boxes_per_image")
        if pseudo is None:
            return
        self._silence = 0 if pseudo > 0.0 else self._silence + 1
        if self._max_silence and self._silence and self._silence % self._max_silence == 0:
            logger.warning(
                "No pseudo-label for %d iterations: the unlabeled images teach nothing. Normal "
                "early in training; if it stays, %s, raise SSOD.BURN_IN_ITERS so that the teacher "
                "knows more before it labels, or start from pretrained MODEL.WEIGHTS.",
                self._silence,
                self._more,
            )
        labeled = self.figure("labeled_boxes_per_image") or 0.0
        self._boxes.append((pseudo, self._drawn * labeled))
        if self._max_ratio and len(self._boxes) == self._boxes.maxlen:
            self._compare()

    def _compare(self) -> None:
        pseudo, labeled = (
            sum(boxes) / len(self._boxes) for boxes in zip(*self._boxes, strict=True)
        )
        if pseudo > self._max_ratio * labeled:
            logger.warning(
                "%.1f pseudo-boxes per unlabeled image against %.1f boxes per labeled image%s, "
                "over %d iterations, is more than SSOD.WARN_PSEUDO_BOX_RATIO %g allows: %s, lower "
                "SSOD.UNSUP_LOSS_WEIGHT, and check that the labeled images have all of their "
                "boxes.",
                pseudo,
                labeled,
                f" ({1 - self._drawn:.0%} of which have none)" if self._drawn < 1 else "",
                len(self._boxes),
                self._max_ratio,
                self._fewer,
            )
            self._boxes.clear()

    def state_dict(self) -> dict[str, Any]:
        """The length of the silence; boxes are compared from the start again after a resume."""
        return {"silence": self._silence}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._silence = state_dict["silence"]


class TwoMeansWatch(FigureWatch):
    """Warns once where few foreground regions weigh much: eq. 14 has a mean of their own for them.

    One of them then counts 1 / share times what it counts in a mean over all regions. Scores rise,
    more labels pass tau, and their regions are foreground again.
    """

    def __init__(self, window: int = BOX_WINDOW) -> None:
        """
        Args:
            window: iterations with foreground regions over which their share is taken.
        """
        self._window = window
        self._shares: deque[float] = deque(maxlen=window)
        self._told = False

    def after_step(self) -> None:
        share = self.figure("foreground_regions")
        if self._told or not share:
            return
        self._shares.append(share)
        if len(self._shares) < self._window:
            return
        mean = sum(self._shares) / self._window
        if mean * _MOST_WEIGHT < 1.0:
            self._told = True
            logger.warning(
                "%.0f %% of the regions on unlabeled images are foreground, over %d iterations: in "
                "eq. 14's two means one of them counts %.0f times what it counts in one mean over "
                "all. Where few labels met many classes, pseudo-labels multiplied that way, and AP "
                "fell below that of the labels alone (docs/results.md). Unless the method is to be "
                "as it was printed, set SSOD.UNSUP_CLS_NORMALIZER sampled.",
                100.0 * mean,
                self._window,
                1.0 / mean,
            )


class ClassWatch(HookBase):
    """Warns when a class that the labels show has next to no pseudo-labels; for the main process.

    Objects without a label teach that they are background, the more so the less the few that have
    one count. Mean AP tells it late, and of many classes not at all.
    """

    def __init__(
        self,
        counts: ClassCounts,
        names: Sequence[str],
        expected: Tensor,
        least_share: float,
        window: int = BOX_WINDOW,
        more: str = "lower SSOD.SCORE_THRESHOLD",
        is_by_rank: bool = False,
    ) -> None:
        """
        Args:
            counts: what the steps count.
            names: of the K classes.
            expected: (K,) boxes of each class per labeled image.
            least_share: ``SSOD.WARN_CLASS_SHARE``; 0: never warn.
            window: iterations with pseudo-labels that are counted together; a class is named once.
            more: what to do for more labels (``MeanTeacher.label_advice``).
            is_by_rank: whether labels are chosen by rank already.
        """
        self._counts = counts
        self._names = list(names)
        self._expected = expected
        self._least_share = least_share
        self._window = window
        by_rank = "choose by rank (SSOD.LABELS.RANK_SHARE of DRE, or LabelMatch), "
        self._advice = f"{more[0].upper()}{more[1:]}, {'' if is_by_rank else by_rank}"
        self._iterations = 0
        self._images = counts.images
        self._boxes = torch.zeros_like(expected)
        self._told: set[str] = set()

    def after_step(self) -> None:
        if not self._least_share or self._counts.images == self._images:
            return
        self._iterations += 1
        if self._iterations % self._window == 0:
            self._compare()

    def _compare(self) -> None:
        boxes = self._counts.boxes.to("cpu", copy=True)
        images = self._counts.images - self._images
        found, expected = boxes - self._boxes, self._expected * images
        self._boxes, self._images = boxes, self._counts.images
        rare = (expected >= _FEWEST) & (found < self._least_share * expected)
        lines = {
            self._names[k]: f"{printable(self._names[k])} {found[k]:.0f} of {expected[k]:.0f}"
            for k in rare.nonzero().flatten().tolist()
            if self._names[k] not in self._told
        }
        self._told |= lines.keys()
        if lines:
            shown = [*lines.values()][:_NAMED]
            more = f" and {len(lines) - _NAMED} more classes" if len(lines) > _NAMED else ""
            logger.warning(
                "Next to no pseudo-labels of some classes, over %d iterations: %s%s, where the "
                "labeled images would suggest as many. Less than SSOD.WARN_CLASS_SHARE %g of "
                "them: their other objects teach that they are background. %sor raise "
                "SSOD.BURN_IN_ITERS so that the teacher knows the class before it labels.",
                self._window,
                ", ".join(shown),
                more,
                self._least_share,
                self._advice,
            )
