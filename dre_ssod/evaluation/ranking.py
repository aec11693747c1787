"""AP of the same detections, ranked by different criteria."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from detectron2.structures import Instances
from torch import Tensor

from dre_ssod.evaluation.evaluators import build_evaluator

CRITERIA: dict[str, Callable[[Instances], Tensor]] = {
    "score": lambda found: found.scores,
    "s_loc": lambda found: found.localization_quality,
    "score * s_loc": lambda found: found.scores * found.localization_quality,
}
"""What detections are ranked by."""
METRICS = ("AP", "AP50", "AP75")


class RankingEvaluation:
    """COCO-style AP of a dataset's detections under each of ``CRITERIA``.

    The detections stay those that non-maximum suppression by the score has left.
    """

    def __init__(self, dataset_name: str, output_dir: str) -> None:
        """
        Args:
            dataset_name: a registered dataset with annotations.
            output_dir: detections go to a folder of it for each criterion.
        """
        self._evaluators = {
            name: build_evaluator(dataset_name, str(Path(output_dir) / f"ranking_{number}"))
            for number, name in enumerate(CRITERIA)
        }
        for evaluator in self._evaluators.values():
            evaluator.reset()

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Take in the detections of a batch."""
        inputs, outputs = list(inputs), list(outputs)
        for name, evaluator in self._evaluators.items():
            ranked = []
            for output in outputs:
                found = output["instances"]
                fields = found.get_fields() | {"scores": CRITERIA[name](found)}
                ranked.append({"instances": Instances(found.image_size, **fields)})
            evaluator.process(inputs, ranked)

    def results(self) -> dict[str, dict[str, float | None]]:
        """``METRICS`` by criterion, in percent; None for a set without objects."""
        found: dict[str, dict[str, float | None]] = {}
        for name, evaluator in self._evaluators.items():
            figures = evaluator.evaluate().get("bbox", {})
            values = {metric: float(figures.get(metric, math.nan)) for metric in METRICS}
            found[name] = {key: v if math.isfinite(v) else None for key, v in values.items()}
        return found
