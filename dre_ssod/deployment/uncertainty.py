"""Which images a model is unsure of, so that a person labels them next."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.structures import Instances
from torch.special import entr

CRITERIA = ("quality", "entropy", "both")
DIGITS = 6


def image_uncertainty(found: Instances) -> dict[str, float]:
    """How unsure a model is of the boxes of one image, each measure a mean over boxes in [0, 1].

    ``entropy``: of the foreground score s in bits, -s log2 s - (1 - s) log2(1 - s): what is there?
    ``quality``: 1 - s_loc / 0.5, weighted by score: where is it? Only with a variance branch.
    ``both``: the mean of the two. An image without boxes has 0 everywhere.

    Args:
        found: with ``scores`` (R,) and possibly ``localization_quality`` (R,).
    """
    scores = found.scores.double()
    names = CRITERIA if found.has("localization_quality") else ("entropy",)
    if len(scores) == 0:
        return dict.fromkeys(names, 0.0)
    bits = (entr(scores) + entr(1.0 - scores)) / torch.log(torch.tensor(2.0, dtype=torch.float64))
    measures = {"entropy": float(bits.mean())}
    if "quality" in names:
        doubt = (1.0 - 2.0 * found.localization_quality.double()).clamp(0.0, 1.0)
        measures["quality"] = float((doubt * scores).sum() / scores.sum())
        measures["both"] = (measures["entropy"] + measures["quality"]) / 2
    return {name: round(measures[name], DIGITS) for name in names}


@dataclass
class MostUncertain:
    """Keeps the images with the highest values out of any number, in memory for ``size``.

    Of equal values the image that came first stays.
    """

    size: int
    _heap: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    _count: int = 0

    def add(self, value: float, image: dict[str, Any]) -> None:
        """Offer an image; one with the value 0 has nothing to be unsure of and is not taken."""
        self._count += 1
        if value <= 0.0 or self.size == 0:
            return
        item = (value, -self._count, image)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, item)
        elif item > self._heap[0]:
            heapq.heapreplace(self._heap, item)

    def ranked(self) -> list[dict[str, Any]]:
        """The images, the most uncertain first."""
        return [image for _, _, image in sorted(self._heap, reverse=True, key=lambda i: i[:2])]
