"""That the benchmark compares the same work, and sees where a batch finds something else."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances

from dre_ssod.benchmark.inference import (
    CANDIDATES,
    Detectors,
    benchmark_inference,
    compare,
    matching_threshold,
)
from tests.factories import tiny_model


def test_both_detectors_find_the_same(cfg: CfgNode) -> None:
    detectors = Detectors(cfg, images=4)
    assert type(detectors.plain) is GeneralizedRCNN
    ours = detectors.run(detectors.ours, 1)
    different, largest = compare(ours, detectors.run(detectors.plain, 1))
    assert different == 0
    assert largest < 1e-3
    assert sum(map(len, ours)) > 4


def test_the_threshold_lets_as_many_boxes_through_as_it_says(cfg: CfgNode) -> None:
    detectors = Detectors(cfg, images=2)
    model = tiny_model(cfg, spread=0.5).eval()
    detectors.plain.load_state_dict(model.state_dict(), strict=False)
    threshold = matching_threshold(model, detectors.images)
    seen: list[torch.Tensor] = []
    predictor = detectors.plain.roi_heads.box_predictor
    handle = predictor.register_forward_hook(lambda _, inputs, output: seen.append(output[0]))
    detectors.run(detectors.plain, 1)
    handle.remove()
    # 40 regions of 3 classes an image: fewer than CANDIDATES, so all but the last go through.
    scores = torch.cat(seen).softmax(dim=1)[:, :-1]
    assert scores.numel() == 2 * 40 * 3 < 2 * CANDIDATES
    # The two models round differently.
    assert int((scores > threshold * (1 + 1e-4)).sum()) == scores.numel() - 1
    assert bool((scores > threshold * (1 - 1e-4)).all())


def test_inference(cfg: CfgNode) -> None:
    report = benchmark_inference(cfg, rounds=1, images=5, batch=3)
    assert (report.settings["images"], report.settings["batch"]) == (5, 3)
    assert report.settings["detections per image"] > 1
    assert "batches of 3, per image" in [row.name for row in report.rows]
    assert all(row.value > 0 for row in report.rows)
    assert [goal.bound for goal in report.goals] == [1.1, 0, 0.0]
    # On a CPU images pass one by one.
    assert [goal.value for goal in report.goals[1:]] == [0, 0.0]
    assert not Path(cfg.OUTPUT_DIR).exists()


def test_differences_of_detections_by_hand() -> None:
    def found(x: float, classes: list[int]) -> Instances:
        boxes = Boxes(torch.tensor([[x, 0.0, 8.0, 8.0]] * len(classes)).reshape(-1, 4))
        return Instances((9, 9), pred_boxes=boxes, pred_classes=torch.tensor(classes))

    first = [found(1.0, [2, 0]), found(1.0, [1]), found(1.0, [1]), found(1.0, [])]
    second = [found(1.5, [2, 0]), found(9.0, [0]), found(1.0, []), found(3.0, [])]
    assert compare(first, second) == (2, 0.5)
    different, largest = compare(first[1:2], second[1:2])
    assert different == 1
    assert math.isnan(largest)
