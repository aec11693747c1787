"""Instant-Teaching: mixup and split with labeled images, their labels and weights, live labels."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.methods import Clock
from dre_ssod.methods.instant_teaching import (
    InstantTeaching,
    LabeledMix,
    Mixed,
    Part,
    cut_labels,
    draw_cut,
)
from dre_ssod.modeling.student_batch import StudentBatch
from tests.engine.steps import assert_equal, make_trainer, run, state
from tests.engine.steps import batch as make_batch
from tests.factories import BOXES, NUM_CLASSES, SIZE, labeled_image, pseudo_labels
from tests.methods.parts.test_pcv import regions

NEAR = ((30.0, 4.0, 60.0, 30.0), (10.0, 30.0, 34.0, 54.0))


def _images(labeled: int = 1, views: int = 1) -> ImageList:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.rand(labeled + views, 3, *SIZE, generator=generator)
    return ImageList(tensor, [SIZE] * (labeled + views))


def _batch(labeled: int = 1) -> StudentBatch:
    return StudentBatch([labeled_image(number, NEAR) for number in range(labeled)])


def _mixed(
    mix: float, mixup: float, seed: int = 0
) -> tuple[Tensor, Tensor, Instances, Mixed | None]:
    """The mixture, the two images that it consists of, its labels and how it was made."""
    mixer = LabeledMix(mix, mixup, 0.25)
    before = _images().tensor
    torch.manual_seed(seed)
    images = mixer.images(_images(), _batch())
    (found,) = mixer.labels([pseudo_labels(BOXES)], _batch())
    assert torch.equal(images.tensor[0], before[0])
    return images.tensor[1], before, found, mixer._plans[0]


def test_a_view_that_is_not_mixed_stays() -> None:
    image, before, found, plan = _mixed(0.0, 0.5)
    assert plan is None
    assert torch.equal(image, before[1])
    assert torch.equal(found.gt_boxes.tensor, torch.tensor(BOXES))
    assert found.gt_weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(3))
def test_mixup_weighs_pixels_and_labels_alike(seed: int) -> None:
    image, (labeled, view), found, plan = _mixed(1.0, 1.0, seed)
    assert plan is not None
    lam = plan.own.weight
    assert 0.0 < lam < 1.0
    torch.testing.assert_close(image, lam * view + (1 - lam) * labeled)
    assert torch.equal(found.gt_boxes.tensor, torch.tensor(BOXES + NEAR))
    assert found.gt_weight.tolist() == pytest.approx([lam, lam, 1 - lam, 1 - lam])
    assert found.gt_weight.sum().item() == pytest.approx(2 * lam + 2 * (1 - lam))


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_two_images_change_places_with_lambda(
    lam: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixture(own: Tensor, other: Tensor, weight: float) -> Tensor:
        draws = iter([torch.tensor(0.0), torch.tensor(weight)])
        monkeypatch.setattr(torch, "rand", lambda *size: next(draws))
        own = own.clone()
        LabeledMix(1.0, 1.0, 0.25)._draw(own, other, SIZE, 0)
        return own

    labeled, view = _images().tensor
    one, two = mixture(view, labeled, lam), mixture(labeled, view, 1 - lam)
    torch.testing.assert_close(one, two)
    if lam == 1.0:
        assert torch.equal(one, view)


@pytest.mark.parametrize("seed", range(6))
def test_every_pixel_of_a_split_is_one_of_the_two_images(seed: int) -> None:
    image, (labeled, view), found, plan = _mixed(1.0, 0.0, seed)
    assert plan is not None
    for part, source in ((plan.own, view), (plan.other, labeled)):
        x1, y1, x2, y2 = part.area
        assert torch.equal(image[:, y1:y2, x1:x2], source[:, y1:y2, x1:x2])
        assert part.weight == 1.0
    (a, b, c, d), other = plan.own.area, plan.other.area
    # The first part begins at the corner, the second ends at the other one, and they meet.
    assert (a, b, *other[2:]) == (0, 0, SIZE[1], SIZE[0])
    assert other[:2] in ((c, 0), (0, d))
    for box in found.gt_boxes.tensor.tolist():
        assert any(
            x1 <= box[0] and y1 <= box[1] and box[2] <= x2 and box[3] <= y2
            for x1, y1, x2, y2 in (plan.own.area, plan.other.area)
        )
    assert found.gt_weight.tolist() == [1.0] * len(found)


def test_a_cut_goes_by_the_pair_whatever_else_the_batch_holds() -> None:
    """A larger image of the batch pads all of them, and moves no cut."""
    cuts = []
    for padded in (SIZE, (4 * SIZE[0], 4 * SIZE[1])):
        mixer = LabeledMix(1.0, 0.0, 0.25)
        torch.manual_seed(0)
        images = ImageList(torch.rand(1 + 40, 3, *padded), [SIZE] * 41)
        torch.manual_seed(0)
        mixer.images(images, _batch())
        areas = [plan.own.area for plan in mixer._plans if plan is not None]
        assert len(areas) == 40
        for area in areas:
            # One side whole, the other between a quarter and three quarters of the pair's.
            assert area is not None
            _, _, x, y = area
            assert (x == SIZE[1]) != (y == SIZE[0])
            assert x >= SIZE[1] // 4
            assert y >= SIZE[0] // 4
        cuts.append(areas)
    assert cuts[0] == cuts[1]


def test_a_cut_lies_in_the_middle_half() -> None:
    torch.manual_seed(0)
    assert {draw_cut(16) for _ in range(400)} == set(range(4, 12))


@pytest.mark.parametrize(("width", "kept"), [(2.5, False), (2.6, True), (10.0, True)])
def test_a_box_stays_if_more_than_a_quarter_of_both_sides_does(width: float, kept: bool) -> None:
    label = pseudo_labels([(10.0, 10.0, 20.0, 40.0)])
    low = 20.0 - width
    # The part begins inside the box.
    shifted = Boxes(label.gt_boxes.tensor + torch.tensor([10.0 - low, 0.0, 10.0 - low, 0.0]))
    label.gt_boxes = shifted
    part = Part(0.5, (10, 0, 96, 64))
    found = cut_labels(label, part, SIZE, 0.25)
    assert len(found) == kept
    if kept:
        assert found.gt_boxes.tensor[0, :1].item() == max(10.0, 20.0 - low)
        assert found.gt_weight.tolist() == [0.5]


def test_half_are_not_mixed_and_a_quarter_each_mixed_up_and_split() -> None:
    mixer = LabeledMix(0.5, 0.5, 0.25)
    torch.manual_seed(0)
    mixer.images(_images(4, 2000), _batch(4))
    plans = [plan for plan in mixer._plans if plan is not None]
    split = sum(plan.own.area != plan.other.area for plan in plans)
    assert len(plans) / 2000 == pytest.approx(0.5, abs=0.04)
    assert split / 2000 == pytest.approx(0.25, abs=0.03)
    # View i goes with labeled image i, the fifth with the first again.
    assert [plan.partner for plan in mixer._plans[:8] if plan is not None] == [
        number % 4 for number, plan in enumerate(mixer._plans[:8]) if plan is not None
    ]


def test_a_mixture_is_as_large_as_the_larger_image() -> None:
    mixer = LabeledMix(1.0, 1.0, 0.25)
    images = _images()
    images.image_sizes = [(64, 50), (40, 96)]
    mixed = mixer.images(images, _batch())
    assert mixed.image_sizes == [(64, 50), (64, 96)]
    (found,) = mixer.labels([pseudo_labels(BOXES, size=(40, 96))], _batch())
    assert found.image_size == (64, 96)


def test_foreground_is_weighed_by_its_label_and_background_is_not() -> None:
    given = regions(
        boxes=NEAR * 2,
        matched=NEAR * 2,
        classes=(0, 1, NUM_CLASSES, 2),
        deltas=((0.1,) * 4,) * 4,
    )
    given.sampled[0].gt_weight = torch.tensor([0.3, 0.7, 0.3, 1.0])
    terms = InstantTeaching(InstantTeaching.Settings()).unlabeled_losses(given, given).unsupervised
    entropies = F.cross_entropy(given.predictions.logits, given.classes, reduction="none")
    # Uniform scores: each is log 4.
    expected = (0.3 * entropies[0] + 0.7 * entropies[1] + entropies[2] + entropies[3]) / 4
    torch.testing.assert_close(terms["loss_cls_unsup"], expected)
    assert terms["loss_cls_unsup"].item() == pytest.approx(0.75 * 1.3862944)
    torch.testing.assert_close(terms["loss_box_reg_unsup"], given.smooth_l1().sum() / 4)


def test_labeled_and_unlabeled_losses_weigh_a_half_each() -> None:
    method = InstantTeaching(InstantTeaching.Settings(unsup_loss_weight=1.0))
    for clock, share in ((Clock(0, 0, 9), 0.5), (Clock(5, 5, 9), 0.5), (Clock(4, 5, 9), 1.0)):
        names = ("loss_cls", "loss_cls_unsup") if share < 1 else ("loss_cls",)
        assert {method.weight(name, clock) for name in names} == {share}


def test_the_weighted_cross_entropy_is_that_of_the_weighted_target() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0.3, 0.7, 1.0])[:, None] * F.one_hot(torch.tensor([0, 2, 1]), 4)
    soft = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    hard = F.cross_entropy(logits, torch.tensor([0, 2, 1]), reduction="none")
    torch.testing.assert_close(soft, torch.tensor([0.3, 0.7, 1.0]) * hard)


def test_the_teacher_is_the_student_after_every_step() -> None:
    trainer = make_trainer([make_batch(0), make_batch(1)], lr=0.1)
    trainer.method = InstantTeaching(InstantTeaching.Settings(score_threshold=0.3))
    assert trainer.method.decay(Clock(7, 3, 100)) == 0.0
    for iteration in range(2):
        run(trainer, (iteration,))
        assert_equal(state(trainer.teacher), state(trainer.model))


def test_nothing_of_a_pseudo_label_but_box_class_and_weight_goes_on() -> None:
    for mix in (0.0, 1.0):
        *_, found, _ = _mixed(mix, 1.0)
        assert set(found.get_fields()) == {"gt_boxes", "gt_classes", "gt_weight"}
