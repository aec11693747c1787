"""AP under another ranking, where right and wrong boxes are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances

from dre_ssod.data.sources.catalog import ensure_registered, load_one_labeled
from dre_ssod.evaluation.ranking import RankingEvaluation
from tests.tiny_dataset import write_tiny_dataset


def test_each_criterion_ranks_the_same_detections(tmp_path: Path) -> None:
    """Every image has its objects found, and one wrong box that only the score prefers."""
    dataset = ensure_registered(write_tiny_dataset(tmp_path).labeled)
    ranking = RankingEvaluation(dataset, str(tmp_path / "out"))
    for record in load_one_labeled(dataset):
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]])
        boxes[:, 2:] += boxes[:, :2]
        classes = [a["category_id"] for a in record["annotations"]]
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes(torch.cat([boxes, torch.tensor([[0.0, 60.0, 96.0, 64.0]])]))
        found.pred_classes = torch.tensor([*classes, 0])
        found.scores = torch.tensor([0.6] * len(boxes) + [0.9])
        found.localization_quality = torch.tensor([0.4] * len(boxes) + [0.1])
        ranking.process([record], [{"instances": found}])
        assert found.scores[-1] == pytest.approx(0.9)
    results = ranking.results()
    assert list(results) == ["score", "s_loc", "score * s_loc"]
    # Class 0 has 8 wrong boxes above 8 right ones: precision 1/2 at every recall; others 1.
    assert results["score"]["AP50"] == pytest.approx(100 * (0.5 + 1 + 1) / 3, abs=0.1)
    assert results["s_loc"]["AP50"] == pytest.approx(100.0)
    assert results["score * s_loc"]["AP50"] == pytest.approx(100.0)
