"""RPL-like: thresholds and weights by class frequency, two criteria, and what it remembers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dre_ssod.methods import Clock
from dre_ssod.methods.parts.score_ranks import BINS, count_scores
from dre_ssod.methods.rpl_like import RPLLike
from tests.engine.models import opinionated
from tests.factories import NUM_CLASSES, labels_alone, tiny_cfg, tiny_model, unlabeled_sample
from tests.methods.parts.test_pcv import LABELS, regions

CLOCK = Clock(5, 0, 100)


def _method(counts: tuple[int, ...] = (8, 2, 1), **settings: Any) -> RPLLike:
    """A method that has seen so many boxes of each class, on ten labeled images."""
    method = RPLLike(replace(RPLLike.Settings(), **settings))
    objects = [
        {"category_id": number, "bbox": [0, 0, 1, 1], "bbox_mode": 0}
        for number, count in enumerate(counts)
        for _ in range(count)
    ]
    method.study(labels_alone([{"annotations": objects}], len(counts), empty=9))
    return method


def _qualities(*values: float, label: int = 0) -> dict[str, torch.Tensor]:
    """Of a step with detections of one class."""
    scores, classes = torch.tensor(values), torch.full((len(values),), label)
    return {
        "labels": torch.tensor([0.8, 0.2, 0.1]),
        "images": torch.tensor([1.0]),
        "qualities": count_scores(scores, classes, 3),
    }


def test_one_class_alone_has_the_plain_threshold_and_weight_1() -> None:
    method = _method((5,))
    assert method.thresholds(1)[0].tolist() == pytest.approx([0.8])
    assert method.class_weights(1).tolist() == [1.0]


def test_by_hand() -> None:
    method = _method((8, 2, 1))
    torch.testing.assert_close(method.relative_frequency(3), torch.tensor([1.0, 0.25, 0.125]))
    expected = [0.8, 0.8 * 0.25**0.05, 0.8 * 0.125**0.05]
    assert method.thresholds(3)[0].tolist() == pytest.approx(expected)
    # r^-.6 is 1, 2.297 and 3.482; by r their mean is (1 + .574 + .435) / 1.375.
    mean = (1 + 0.25**0.4 + 0.125**0.4) / 1.375
    weights = [1 / mean, 0.25**-0.6 / mean, 0.125**-0.6 / mean]
    assert method.class_weights(3).tolist() == pytest.approx(weights, rel=1e-5)


def test_thresholds_rise_and_weights_fall_with_frequency() -> None:
    method = _method((100, 30, 10))
    thresholds, weights = method.thresholds(3)[0], method.class_weights(3)
    assert thresholds.tolist() == sorted(thresholds.tolist(), reverse=True)
    assert weights.tolist() == sorted(weights.tolist())
    # The weights of labels as frequent as the classes have the mean 1.
    r = method.relative_frequency(3)
    assert ((r * weights).sum() / r.sum()).item() == pytest.approx(1.0)


def test_no_class_weighs_more_than_the_cap() -> None:
    method = _method((10**4, 1))
    weights = method.class_weights(2)
    assert (weights[1] / weights[0]).item() == pytest.approx(5.0)
    assert method.relative_frequency(2).tolist() == pytest.approx([1.0, 1e-3])


def test_the_bound_of_quality_is_a_quantile_of_its_class() -> None:
    method = _method()
    assert method.thresholds(3)[1].tolist() == [0.0] * 3
    method.learn(_qualities(0.5, 0.4375, 0.375, 0.25, 0.125, 0.0625, 0.03125, 0.0, 0.0, 0.0))
    # The seventh best of ten, for the most frequent class.
    assert method.thresholds(3)[1].tolist() == [0.03125, 0.0, 0.0]
    # Others, which have better ones, do not raise it.
    method.learn(_qualities(*[0.5] * 20, label=1))
    factor = 0.25**0.05
    assert method.thresholds(3)[1].tolist() == pytest.approx([0.03125, 0.5 * factor, 0.0])


def test_what_a_step_labels_moves_the_frequencies() -> None:
    method = _method((8, 2, 1), momentum=0.75)
    method.learn({"labels": torch.tensor([0.0, 6.0, 4.0]), "images": torch.tensor([2.0])})
    expected = 0.75 * torch.tensor([0.8, 0.2, 0.1]) + 0.25 * torch.tensor([0.0, 3.0, 2.0])
    torch.testing.assert_close(method.state_dict()["frequency"], expected)
    method.learn({})
    torch.testing.assert_close(method.state_dict()["frequency"], expected)


def test_its_state_makes_another_one_the_same() -> None:
    method, again = _method(), _method((1, 1, 1))
    method.learn(_qualities(*[0.25] * 10))
    again.load_state_dict(method.state_dict())
    for one, two in zip(method.thresholds(3), again.thresholds(3), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(method.class_weights(3), again.class_weights(3))


@pytest.fixture(scope="module")
def teacher() -> Any:
    return opinionated(tiny_model(tiny_cfg(), seed=2, spread=5.0)).eval()


def test_a_detection_that_fails_either_bound_is_dropped(
    teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [unlabeled_sample(0), unlabeled_sample(1)]

    def labels(scores: float, quality: float, **settings: Any) -> list[Any]:
        method = _method(**settings)
        bounds = torch.full((NUM_CLASSES,), scores), torch.full((NUM_CLASSES,), quality)
        monkeypatch.setattr(method, "thresholds", lambda num_classes: bounds)
        return list(method.label(teacher, samples, CLOCK).cls.origin)

    everything = labels(0.05, 0.0)
    qualities = torch.cat([found.gt_localization_quality for found in everything])
    middle = qualities.median().item()
    for found, whole in zip(labels(0.9, middle), everything, strict=True):
        good = (whole.gt_scores >= 0.9) & (whole.gt_localization_quality >= middle)
        assert torch.equal(found.gt_boxes.tensor, whole.gt_boxes.tensor[good])
    assert 0 < sum(map(len, labels(0.9, middle))) < sum(map(len, everything))
    assert sum(map(len, labels(0.05, 1.0))) == 0
    # Without the second criterion the first is the only one.
    assert sum(map(len, labels(0.05, 1.0, by_quality=False))) == sum(map(len, everything))


def test_a_step_counts_all_of_its_passes(teacher: Any) -> None:
    method = _method(score_threshold=0.5)
    found = [method.label(teacher, [unlabeled_sample(number)], CLOCK) for number in range(2)]
    tally = method.tally([labels.counts for labels in found])
    assert tally["images"].tolist() == [2.0]
    classes = torch.cat([labels.cls.origin[0].gt_classes for labels in found])
    assert tally["labels"].tolist() == torch.bincount(classes, minlength=3).tolist()
    assert tally["qualities"].shape == (NUM_CLASSES, BINS)
    assert method.tally([]) == {}


def test_regions_weigh_as_their_class_says_and_the_background_1() -> None:
    far = (70.0, 0.0, 90.0, 20.0)
    given = regions((*LABELS, far), (*LABELS, far), (0, 2, NUM_CLASSES), ((0.1,) * 4,) * 3)
    method = _method()
    terms = method.unlabeled_losses(given, given).unsupervised
    weights = method.class_weights(3)
    entropies = F.cross_entropy(given.predictions.logits, given.classes, reduction="none")
    expected = (weights[0] * entropies[0] + weights[2] * entropies[1] + entropies[2]) / 3
    torch.testing.assert_close(terms["loss_cls_unsup"], expected)
    torch.testing.assert_close(terms["loss_box_reg_unsup"], given.smooth_l1().sum() / 3)
