"""Unbiased Teacher: its focal loss, its one geometry, its teacher, and who learns boxes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from dre_ssod.methods import Clock
from dre_ssod.methods.parts.focal import focal_loss
from dre_ssod.methods.parts.schedules import constant_after_burn_in
from dre_ssod.methods.parts.thresholds import above
from dre_ssod.methods.unbiased.unbiased_teacher import UnbiasedTeacher
from dre_ssod.modeling.student_batch import StudentBatch
from dre_ssod.teacher import CarriedLabels
from tests.engine.steps import SAMPLE_ALL, state
from tests.factories import labeled_image, tiny_cfg, tiny_model
from tests.methods.every import ONE_SIZE, batch_of, losses_of, out_of_sight, trainer_of
from tests.modeling.regions import ground_truth, make_heads, sampled_by
from tests.modeling.regions import losses_of as head_losses
from tests.tiny_dataset import TinyDataset, loggers_kept

NAME = "UnbiasedTeacher"
LOGITS = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.5, 1.0, -1.0, 0.0], [-3.0, 0.0, 3.0, 1.0]])
CLASSES = torch.tensor([0, 3, 0])


# Focal loss


def test_focal_loss_of_given_probabilities() -> None:
    """By hand: p = 0.5 gives 0.5^1.5 * ln 2, p = 0.9 gives 0.1^1.5 * -ln 0.9."""
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.05, 0.05, 0.9]])
    found = focal_loss(probabilities.log(), torch.tensor([0, 2]), 1.5)
    torch.testing.assert_close(found, torch.tensor([0.245064, 0.00333181]))


def test_focal_loss_is_restated_row_by_row() -> None:
    found = focal_loss(LOGITS, CLASSES, 1.5)
    for row, label, value in zip(LOGITS.tolist(), CLASSES.tolist(), found.tolist(), strict=True):
        p = math.exp(row[label]) / sum(map(math.exp, row))
        assert value == pytest.approx((1 - p) ** 1.5 * -math.log(p), rel=1e-5)


def test_gamma_0_is_cross_entropy_and_every_loss_falls_with_gamma() -> None:
    entropy = F.cross_entropy(LOGITS, CLASSES, reduction="none")
    before = focal_loss(LOGITS, CLASSES, 0.0)
    assert torch.equal(before, entropy)
    for gamma in (0.5, 1.5, 2.0, 5.0):
        after = focal_loss(LOGITS, CLASSES, gamma)
        assert (after < before).all()
        before = after


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
def test_a_region_that_is_certain_has_no_loss_and_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0]), gamma)
    loss.sum().backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_both_kinds_of_images_have_the_mean_focal_loss_over_sampled_regions() -> None:
    head = make_heads(**{"SSOD.METHOD": NAME})
    labels = [ground_truth()]
    found = head_losses(head, labels, labels)
    sampled, predictions = sampled_by(head, labels + labels)
    first = len(sampled[0])
    for rows, value in (
        (slice(0, first), found.supervised["loss_cls"]),
        (slice(first, None), found.unsupervised["loss_cls_unsup"]),
    ):
        classes = torch.cat([s.gt_classes for s in sampled])[rows]
        total = 0.0
        for row, label in zip(predictions.logits[rows].tolist(), classes.tolist(), strict=True):
            p = math.exp(row[label]) / sum(map(math.exp, row))
            total += (1 - p) ** 1.5 * -math.log(p)
        assert value.item() == pytest.approx(total / len(classes), rel=1e-4)
    assert found.unsupervised.keys() == {"loss_cls_unsup"}


# Views and labels


def test_views_of_an_image_have_one_geometry_and_carried_boxes_stay(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path)
    for sample in batch_of(run, run.cfg.SSOD.BURN_IN_ITERS).unlabeled:
        assert torch.equal(sample.weak.matrix, sample.strong.matrix)
        assert sample.weak.size == sample.strong.size
        height, width = sample.weak.size
        boxes = torch.tensor([[1.5, 2.25, width - 3.0, height - 1.0], [4.0, 5.0, 20.5, 30.75]])
        labels = Instances(sample.weak.size, gt_boxes=Boxes(boxes))
        (carried,) = CarriedLabels([labels], [sample.weak], [sample.strong]).instances()
        torch.testing.assert_close(carried.gt_boxes.tensor, boxes, rtol=0.0, atol=1e-4)


def test_every_labeled_image_is_trained_on_twice(data: TinyDataset, tmp_path: Path) -> None:
    run = trainer_of(NAME, data, tmp_path)
    batch = batch_of(run)
    assert len(batch.labeled_views) == 2 * len(batch.labeled) == 4
    for image in batch.labeled:
        (weak,) = image["further_views"]
        assert weak["file_name"] == image["file_name"]
        assert torch.equal(weak["instances"].gt_boxes.tensor, image["instances"].gt_boxes.tensor)
        assert weak["image"].shape == image["image"].shape
    assert any(
        not torch.equal(image["further_views"][0]["image"], image["image"])
        for image in batch.labeled
    )


def test_an_image_that_comes_twice_weighs_as_much_as_once() -> None:
    model = tiny_model(tiny_cfg(**SAMPLE_ALL), spread=0.5)
    method = UnbiasedTeacher(UnbiasedTeacher.Settings())
    image = labeled_image(0)
    once, twice = (
        model(StudentBatch(images, method=method)).supervised for images in ([image], [image] * 2)
    )
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value)


def test_a_score_at_the_threshold_is_no_label() -> None:
    bound = torch.tensor(above(0.7))
    assert bound > torch.tensor(0.7)
    assert torch.nextafter(bound, torch.tensor(0.0)) == torch.tensor(0.7)


def test_only_detections_above_the_threshold_become_labels(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path)
    samples = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS).unlabeled
    clock = Clock(2, 2, 6)

    def scores(bound: float) -> torch.Tensor:
        method = UnbiasedTeacher(UnbiasedTeacher.Settings(score_threshold=bound))
        labels = method.label(run.teacher, samples, clock).cls.origin
        return torch.cat([found.gt_scores for found in labels])

    every = scores(0.2).sort().values
    middle = every[len(every) // 2].item()
    assert torch.equal(scores(middle).sort().values, every[every > middle])


def test_an_image_without_labels_is_background_with_full_weight(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path, **ONE_SIZE)
    batch = batch_of(run)
    batch = replace(batch, unlabeled=[out_of_sight(sample) for sample in batch.unlabeled])
    found = losses_of(run, batch).unsupervised
    assert found["loss_rpn_cls_unsup"] > 0.0
    assert found["loss_cls_unsup"] > 0.0


# Following


@pytest.mark.parametrize(
    ("iteration", "expected"), [(0, None), (2, None), (3, 0.0), (4, 0.99), (5, 0.99), (90, 0.99)]
)
def test_the_teacher_waits_is_copied_once_and_then_follows_without_a_ramp(
    iteration: int, expected: float | None
) -> None:
    method = UnbiasedTeacher(UnbiasedTeacher.Settings(ema_decay=0.99))
    assert method.decay(Clock(iteration, 4, 100)) == expected
    kept = UnbiasedTeacher(UnbiasedTeacher.Settings(ema_decay=0.99, burn_in_copy=False))
    assert kept.decay(Clock(iteration, 4, 100)) == 0.99


def test_without_a_burn_in_it_follows_from_the_first_step() -> None:
    assert constant_after_burn_in(0, 0, 0.99) == 0.99


def test_teacher_and_student_through_a_burn_in(data: TinyDataset, tmp_path: Path) -> None:
    """Constant until the end, equal at the end, and then exactly alpha of itself."""
    run = trainer_of(NAME, data, tmp_path, **{"SSOD.BURN_IN_ITERS": 2, "SSOD.EMA.DECAY": 0.75})
    states: list[tuple[dict[str, Any], dict[str, Any]]] = []

    class Watch(HookBase):
        def after_step(self) -> None:
            states.append((state(run.teacher), state(run.student)))

    first = state(run.teacher)
    run.start_iter = 0
    run.register_hooks([Watch()])
    with loggers_kept():
        run.train()
    for key, value in first.items():
        assert torch.equal(states[0][0][key], value), key
        assert torch.equal(states[1][0][key], states[1][1][key]), key
        if value.is_floating_point():
            expected = states[1][0][key].lerp(states[2][1][key], 0.25)
            torch.testing.assert_close(states[2][0][key], expected)
