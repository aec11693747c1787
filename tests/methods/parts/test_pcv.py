"""PseCo's box weights: by hand, restated label by label, and their limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from dre_ssod.methods import METHODS
from dre_ssod.methods.parts.pcv import consistency_weights
from dre_ssod.methods.parts.per_label import mean_per_label
from dre_ssod.modeling.box_predictor import BoxPredictions
from dre_ssod.modeling.counts import RegionCounts
from dre_ssod.modeling.regions import Regions
from tests.factories import NUM_CLASSES, SIZE
from tests.methods.every import EXPECTED, batch_of, losses_of, trainer_of
from tests.modeling.regions import make_heads
from tests.tiny_dataset import write_tiny_dataset

LABELS = ((10.0, 10.0, 30.0, 30.0), (40.0, 10.0, 60.0, 40.0))


def regions(
    boxes: Any, matched: Any, classes: Any, deltas: Any, images: Any = None, **overrides: Any
) -> Regions:
    """Regions of one image, or of as many images as ``images`` says each belongs to."""
    head = make_heads(**{"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True, **overrides})
    rows = torch.tensor([0] * len(classes) if images is None else images)
    fields = {
        "proposal_boxes": Boxes(torch.tensor(boxes)),
        "gt_boxes": Boxes(torch.tensor(matched)),
    }
    everything = Instances(SIZE, **fields)
    count = torch.tensor(float(len(classes)))
    return Regions(
        head.heads.box_predictor,
        [everything[rows == image] for image in rows.unique()],
        BoxPredictions(torch.zeros(len(classes), NUM_CLASSES + 1), torch.tensor(deltas), None),
        torch.tensor(classes),
        RegionCounts(count, count, count),
        count,
    )


def _random(seed: int) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    matched = torch.tensor(LABELS)[torch.randint(2, (20,), generator=generator)]
    boxes = matched + 4 * torch.randn(20, 4, generator=generator)
    classes = torch.where(matched[:, 0] == 10.0, 0, 2)
    classes[torch.rand(20, generator=generator) < 0.4] = NUM_CLASSES
    deltas = 0.5 * torch.randn(20, 4, generator=generator)
    parts = (boxes, matched, classes, deltas)
    images = [0] * 10 + [1] * 10
    return regions(*(part.tolist() for part in parts), images=images)


def _votes(given: Regions) -> list[float]:
    """w_g of each region's label, region by region and label by label in plain loops."""
    transform = given.predictor.box2box_transform
    keys, votes = [], []
    row = 0
    for image, found in enumerate(given.sampled):
        for box, label in zip(found.proposal_boxes.tensor, found.gt_boxes.tensor, strict=True):
            decoded = transform.apply_deltas(given.predictions.deltas[row][None], box[None])
            iou = pairwise_iou(Boxes(decoded), Boxes(label[None])).item()
            is_foreground = given.classes[row] < NUM_CLASSES
            keys.append((image, *label.tolist()) if is_foreground else None)
            votes.append(iou)
            row += 1
    means = []
    for key in keys:
        shared = [vote for other, vote in zip(keys, votes, strict=True) if other == key]
        means.append(0.0 if key is None else sum(shared) / len(shared))
    return means


def _restated(given: Regions) -> Tensor:
    votes = _votes(given)
    factor = sum(votes) / sum(vote**2 for vote in votes)
    return torch.tensor([factor * vote**2 for vote in votes])


def test_regions_without_a_box_loss_take_no_part() -> None:
    """Two labels alike of two regions each: with one of them alone, equal losses keep its w."""
    shifted = [[x + 2.0, y, u + 2.0, v] for x, y, u, v in (LABELS[0], LABELS[1])]
    boxes = [shifted[0], shifted[0], LABELS[1], LABELS[1]]
    matched = [LABELS[0], LABELS[0], LABELS[1], LABELS[1]]
    given = regions(boxes, matched, [0, 0, 1, 1], [[0.0] * 4] * 4)
    trained = torch.tensor([True, True, False, False])
    weights = consistency_weights(given, trained)
    overlap = _votes(given)[0]
    assert 0.5 < overlap < 1.0
    torch.testing.assert_close(weights, torch.tensor([overlap, overlap, 0.0, 0.0]))
    # With the others, which are placed better, it would be shifted.
    assert consistency_weights(given)[0] < overlap


def test_regions_count_as_much_as_their_image() -> None:
    """Of equal losses the weighted mean is the weighted mean of w, whatever the images weigh."""
    given = _random(0)
    weights = torch.linspace(0.0, 1.5, len(given.sampled))
    given = replace(given, image_weights=weights)
    of_region = given.weighted(torch.ones(len(given.classes)))
    votes = torch.tensor(_votes(given))
    assert (of_region == 0.0).any()
    assert (of_region > 0.0).any()
    torch.testing.assert_close(
        (of_region * consistency_weights(given)).sum(), (of_region * votes).sum()
    )


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_the_mean_overlap_of_a_labels_regions(seed: int) -> None:
    given = _random(seed)
    torch.testing.assert_close(consistency_weights(given), _restated(given))


def test_by_hand() -> None:
    # Two regions of the first label: one predicts it exactly, the other its left half. One region
    # of the second predicts it exactly, and a background region counts for nothing.
    left = (10.0, 10.0, 20.0, 30.0)
    far = (70.0, 0.0, 90.0, 20.0)
    given = regions(
        boxes=(LABELS[0], left, LABELS[1], far),
        matched=(LABELS[0], LABELS[0], LABELS[1], LABELS[1]),
        classes=(0, 0, 1, NUM_CLASSES),
        deltas=((0.0,) * 4,) * 4,
    )
    # w = (1 + .5) / 2, the same, 1, 0; their sum 2.5, of their squares 2.125.
    expected = torch.tensor([0.5625, 0.5625, 1.0, 0.0]) * 2.5 / 2.125
    torch.testing.assert_close(consistency_weights(given), expected)


def test_perfect_boxes_weigh_one() -> None:
    given = regions(LABELS, LABELS, (0, 1), ((0.0,) * 4,) * 2)
    assert consistency_weights(given).tolist() == [1.0, 1.0]


def test_equal_losses_give_the_sum_of_the_votes() -> None:
    given = _random(0)
    votes = _votes(given)
    assert 0.0 < sum(votes) < len(votes)
    assert consistency_weights(given).sum().item() == pytest.approx(sum(votes), rel=1e-5)


def test_no_gradient_and_no_label_is_no_trouble() -> None:
    given = _random(0)
    given.predictions.deltas.requires_grad_()
    assert not consistency_weights(given).requires_grad
    nothing = regions(LABELS, LABELS, (NUM_CLASSES, NUM_CLASSES), ((0.5,) * 4,) * 2)
    assert consistency_weights(nothing).tolist() == [0.0, 0.0]
    for found in nothing.sampled:
        found.remove("gt_boxes")
    assert consistency_weights(nothing).tolist() == [0.0, 0.0]


def test_means_are_kept_apart_by_image_class_and_box() -> None:
    box = LABELS[0]
    given = regions(
        boxes=(box,) * 5,
        matched=(box, box, box, box, LABELS[1]),
        classes=(0, 0, 1, 0, 0),
        deltas=((0.0,) * 4,) * 5,
        images=(0, 0, 0, 1, 1),
    )
    means = mean_per_label(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), given)
    assert means.tolist() == [2.0, 2.0, 5.0, 7.0, 9.0]
    # Autocast to bfloat16 would round the first mean to 0.8008 and pass a bound of 0.8.
    with torch.autocast("cpu", torch.bfloat16):
        means = mean_per_label(torch.tensor([0.798, 0.8, 0.5, 0.5, 0.5]), given)
    assert means[0].item() == pytest.approx(0.799, abs=1e-6)


@pytest.mark.parametrize("name", ["MeanTeacher", "DRE"])
def test_it_multiplies_with_what_the_method_has_weighed(name: str) -> None:
    given = _random(1)
    for found in given.sampled:
        found.gt_localization_quality = torch.full((len(found),), 0.25)
    losses = []
    for enabled in (False, True):
        overrides = {"SSOD.METHOD": name, "SSOD.PRC.ENABLED": False, "SSOD.PCV.ENABLED": enabled}
        method = make_heads(**overrides).method
        assert type(method) is METHODS.get(name)
        found = method.unlabeled_losses(given, given).unsupervised
        losses.append(found["loss_box_reg_unsup"])
    plain = given.smooth_l1().sum(dim=1) * (0.25 if name == "DRE" else 1.0)
    torch.testing.assert_close(losses[0], plain.sum() / 20)
    torch.testing.assert_close(losses[1], (_restated(given) * plain).sum() / 20)


@pytest.mark.parametrize(
    "name", [name for name, row in EXPECTED.items() if "loss_box_reg_unsup" in row.terms]
)
def test_every_method_that_trains_boxes_heeds_it(name: str, tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    found = []
    for enabled in (False, True):
        trainer = trainer_of(name, data, tmp_path, **{"SSOD.PCV.ENABLED": enabled})
        found.append(losses_of(trainer, batch_of(trainer, 2)).unsupervised)
    changed = {term for term, loss in found[0].items() if not torch.equal(loss, found[1][term])}
    assert changed == {"loss_box_reg_unsup"}
