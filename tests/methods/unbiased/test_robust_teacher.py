"""Robust Teacher: a second look, bounds that fall back, pasted objects and rebalanced classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from dre_ssod.methods import Clock
from dre_ssod.methods.unbiased.robust_teacher import (
    Paste,
    RobustTeacher,
    above_first_bound,
    class_weights,
    fitting_objects,
    image_loss,
)
from dre_ssod.modeling.regions import ImageClasses, Regions
from dre_ssod.modeling.student_batch import StudentBatch
from dre_ssod.structures import StudentLosses
from dre_ssod.teacher import Labels, observe
from tests.engine.models import opinionated
from tests.factories import labeled_image, pseudo_labels, tiny_cfg, tiny_model, unlabeled_sample

SIZE = (64, 96)
LABEL = ((10.0, 10.0, 30.0, 30.0),)


def _method(**settings: Any) -> RobustTeacher:
    return RobustTeacher(replace(RobustTeacher.Settings(), **settings))


# Self-correction


@pytest.fixture(scope="module")
def seen() -> Any:
    teacher = opinionated(tiny_model(tiny_cfg(), seed=2, spread=5.0)).eval()
    return observe(teacher, [unlabeled_sample(0), unlabeled_sample(1)], 0.05)


def _equal(one: list[Instances], two: list[Instances]) -> bool:
    return all(
        len(a) == len(b)
        and torch.allclose(a.gt_boxes.tensor, b.gt_boxes.tensor, atol=1e-3)
        and torch.allclose(a.gt_scores, b.gt_scores, atol=1e-5)
        for a, b in zip(one, two, strict=True)
    )


def test_without_copies_it_is_a_second_pass_over_the_detections(seen: Any) -> None:
    again = seen.detect_again([found.gt_boxes for found in seen.detections], 0.05)
    assert sum(map(len, again)) > 0
    assert _equal(_method(jitter_copies=0).corrected(seen), again)
    assert not _equal(again, seen.detections)


def test_copies_that_do_not_move_change_nothing(seen: Any) -> None:
    still = _method(jitter_copies=10, jitter_scale=0.0).corrected(seen)
    assert _equal(still, _method(jitter_copies=0).corrected(seen))


def test_copies_that_move_do_and_as_the_seed_says(seen: Any) -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(_method().corrected(seen))
    assert _equal(found[0], found[1])
    assert not _equal(found[0], found[2])


def test_the_second_look_decodes_the_boxes_it_is_given(seen: Any) -> None:
    """As the RoI head does for any proposals, without the RPN."""
    boxes = [found.gt_boxes for found in seen.detections]
    scores = seen.rescore(boxes)
    again = seen.detect_again(boxes, 0.5)
    rows = scores.probabilities[:, :-1]
    best = rows.max(dim=1).values.split([len(b) for b in boxes])
    for found, expected in zip(again, best, strict=True):
        assert found.gt_scores.max().item() == pytest.approx(expected.max().item())
        assert found.gt_scores.min() >= 0.5


# Bounds


def test_bounds_fall_from_seven_tenths_to_a_third() -> None:
    expected = [0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35]
    torch.testing.assert_close(_method().bounds(), torch.tensor(expected))
    assert _method(score_threshold=0.3).bounds().tolist() == pytest.approx([0.3])


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ((0.9, 0.71, 0.69), (0.9, 0.71)),
        ((0.52, 0.41), (0.52,)),
        ((0.52, 0.51, 0.49), (0.52, 0.51)),
        ((0.36,), (0.36,)),
        ((0.2,), ()),
        ((0.35,), ()),
        ((), ()),
    ],
)
def test_the_first_bound_that_leaves_a_box_counts(
    scores: tuple[float, ...], kept: tuple[float, ...]
) -> None:
    found = torch.tensor(scores)
    chosen = found[above_first_bound(found, _method().bounds())]
    assert chosen.tolist() == pytest.approx(kept)


def test_labels_are_corrected_and_bounded_image_by_image() -> None:
    teacher = opinionated(tiny_model(tiny_cfg(), seed=2, spread=5.0)).eval()
    samples = [unlabeled_sample(0), unlabeled_sample(1)]
    method = _method(jitter_copies=0)
    labels = method.label(teacher, samples, Clock(0, 0, 10)).cls.origin
    corrected = method.corrected(observe(teacher, samples, 0.05))
    expected = [found[above_first_bound(found.gt_scores, method.bounds())] for found in corrected]
    assert _equal(list(labels), expected)
    assert all(len(found) > 0 for found in labels)


# Copy-paste


def _objects(*boxes: tuple[float, ...]) -> Instances:
    found = Instances(SIZE, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))
    found.gt_classes = torch.arange(len(boxes)) % 3
    return found


@pytest.mark.parametrize(
    ("box", "fits"),
    [
        ((40.0, 10.0, 60.0, 30.0), True),
        # Three tenths of the label and more.
        ((24.0, 10.0, 60.0, 30.0), True),
        ((23.9, 10.0, 60.0, 30.0), False),
        # Of a box on the right border seven tenths and less.
        ((89.0, 40.0, 99.0, 50.0), True),
        ((89.1, 40.0, 99.1, 50.0), False),
        # Five square pixels and less.
        ((40.0, 40.0, 45.0, 41.0), True),
        ((40.0, 40.0, 44.9, 41.0), False),
    ],
)
def test_which_objects_fit(box: tuple[float, ...], fits: bool) -> None:
    found = fitting_objects(_objects(box), pseudo_labels(LABEL), 0.3, 0.7, 5.0)
    assert len(found) == fits
    if fits:
        x1, y1, x2, y2 = box
        assert found.gt_boxes.tensor[0].tolist() == pytest.approx([x1, y1, min(x2, 96.0), y2])


def test_nothing_fits_where_there_is_no_label() -> None:
    objects = _objects((40.0, 10.0, 60.0, 30.0))
    assert len(fitting_objects(objects, pseudo_labels(()), 0.3, 0.7, 5.0)) == 0
    assert len(fitting_objects(_objects(), pseudo_labels(LABEL), 0.3, 0.7, 5.0)) == 0


class Given:
    def __init__(self, labels: list[Instances]) -> None:
        self._labels = labels

    def instances(self) -> list[Instances]:
        return self._labels


def _paste(labels: list[Instances]) -> tuple[Tensor, Tensor, list[Instances]]:
    """Images before and after, of two labeled images in two views each, and the labels."""
    near, far = (40.0, 10.0, 60.0, 30.0), (70.0, 40.0, 90.0, 60.0)
    views = []
    for box in (near, far):
        views += [labeled_image(0, (box,)), labeled_image(1, (box,))]
    given = Given(labels)
    batch = StudentBatch(views, labels=Labels(given, given, given, None))  # type: ignore[arg-type]
    before = torch.rand(4 + len(labels), 3, *SIZE, generator=torch.Generator().manual_seed(0))
    mixer = Paste(0.3, 0.7, 5.0)
    images = mixer.images(ImageList(before.clone(), [SIZE] * len(before)), batch)
    return before, images.tensor, mixer.labels(labels, batch)


def test_pixels_of_the_weak_view_are_pasted_and_no_others_change() -> None:
    labels = [pseudo_labels(LABEL), pseudo_labels(LABEL), pseudo_labels(()), pseudo_labels(LABEL)]
    before, after, merged = _paste(labels)
    assert torch.equal(before[:4], after[:4])
    # Views 0 and 2 go with the first labeled image, 1 and 3 with the second; weak views come last.
    for view, weak, box in ((0, 1, (40, 10, 60, 30)), (1, 3, (70, 40, 90, 60)), (3, 3, None)):
        x1, y1, x2, y2 = box or (70, 40, 90, 60)
        expected = before[4 + view].clone()
        expected[:, y1:y2, x1:x2] = before[weak, :, y1:y2, x1:x2]
        assert torch.equal(after[4 + view], expected)
        boxes = merged[view].gt_boxes.tensor.tolist()
        assert boxes == [list(LABEL[0]), [float(v) for v in (x1, y1, x2, y2)]]
        assert merged[view].gt_classes.tolist() == [0, 0]
    assert torch.equal(after[6], before[6])
    assert len(merged[2]) == 0


def test_objects_are_pasted_in_the_given_share_of_passes() -> None:
    torch.manual_seed(0)
    clock = Clock(0, 0, 10)
    assert _method(paste=0.0).mixer(clock) is None
    assert _method(paste=1.0).mixer(clock) is not None
    drawn = sum(_method().mixer(clock) is not None for _ in range(500))
    assert drawn / 500 == pytest.approx(0.5, abs=0.07)


# The head for the classes of an image


def test_the_image_loss_is_the_mean_cross_entropy_over_images_and_classes() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.6, 0.5]], requires_grad=True)
    labels = [pseudo_labels(LABEL), pseudo_labels(())]
    labels[0].gt_classes = torch.tensor([1])
    images = ImageClasses.of(scores, labels)
    assert images.present.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    right = torch.tensor([[0.1, 0.2, 0.5], [0.9, 0.4, 0.5]])
    torch.testing.assert_close(image_loss(images), -right.log().mean())


def test_an_image_that_shows_a_class_twice_shows_it() -> None:
    labels = [pseudo_labels([*LABEL, *LABEL])]
    labels[0].gt_classes = torch.tensor([2, 2])
    assert ImageClasses.of(torch.rand(1, 3), labels).present.tolist() == [[0.0, 0.0, 1.0]]


def test_classes_of_which_the_images_show_less_count_more() -> None:
    scores = torch.tensor([[0.9, 0.3, 0.0], [0.7, 0.1, 0.4]])
    # 1 - y is 0.2, 0.8 and 0.8, on average 0.6.
    expected = torch.tensor([1 - 0.05 * 0.4, 1 + 0.05 * 0.2, 1 + 0.05 * 0.2, 1.0])
    torch.testing.assert_close(class_weights(scores, 0.05), expected)


def test_classes_that_are_shown_alike_weigh_alike() -> None:
    torch.testing.assert_close(class_weights(torch.full((2, 3), 0.4), 0.05), torch.ones(4))
    torch.testing.assert_close(class_weights(torch.rand(2, 3), 0.0), torch.ones(4))


class Watched(RobustTeacher):
    """Keeps the regions that it is given."""

    def losses(self, labeled: Regions, cls: Regions | None, box: Regions | None) -> StudentLosses:
        self.labeled, self.cls = labeled, cls
        return super().losses(labeled, cls, box)


@pytest.fixture(scope="module")
def passed() -> tuple[Any, Watched, StudentLosses]:
    """A model with such a head, the method, and the losses of two images of each kind."""
    model = tiny_model(tiny_cfg(**{"MODEL.META_ARCHITECTURE": "ImageClassRCNN"}), spread=0.5)
    method = Watched(RobustTeacher.Settings())
    given = Given([pseudo_labels(LABEL), pseudo_labels(())])
    views = [{"image": unlabeled_sample(n).strong.image} for n in (0, 1)]
    labels = Labels(given, given, given, None)  # type: ignore[arg-type]
    batch = StudentBatch([labeled_image(0), labeled_image(1)], views, labels, method)
    torch.manual_seed(0)
    with EventStorage():
        return model, method, model.train()(batch)


def test_the_focal_loss_of_unlabeled_images_is_rebalanced_and_no_other(passed: Any) -> None:
    _, method, losses = passed
    for regions, found, rebalance in (
        (method.labeled, losses.supervised["loss_cls"], 0.0),
        (method.cls, losses.unsupervised["loss_cls_unsup"], 0.05),
    ):
        y = method.cls.image_classes.scores.mean(dim=0)
        r = torch.cat([1 + rebalance * (y.mean() - y), torch.ones(1)])
        p = regions.predictions.logits.softmax(dim=1)[range(len(regions.classes)), regions.classes]
        expected = (r[regions.classes] * (1 - p) ** 1.5 * -p.log()).mean()
        torch.testing.assert_close(found, expected)


def test_the_head_sees_each_image_and_its_labels(passed: Any) -> None:
    _, method, _ = passed
    assert method.labeled.image_classes.scores.shape == (2, 3)
    assert method.cls.image_classes.present.sum(dim=1).tolist() == [1.0, 0.0]
    assert method.cls.image_classes.scores[0].ne(method.cls.image_classes.scores[1]).any()


def test_the_head_learns_from_its_loss_and_from_the_weights(passed: Any) -> None:
    model, _, losses = passed
    for name in ("loss_image_unsup", "loss_cls_unsup"):
        model.zero_grad()
        losses.unsupervised[name].backward(retain_graph=True)
        assert model.image_head[0].weight.grad.any()
    assert losses.supervised["loss_image"] > 0.0


def test_amp_does_not_round_what_the_head_says(passed: Any) -> None:
    """Detectron2's norm of several processes takes a variance as the difference of two means."""
    model, _, _ = passed
    features = {name: torch.rand(2, 8, 4, 4) for name in model.backbone.output_shape()}
    features[model._level] = torch.rand(2, model.image_head[0].in_channels, 4, 4)
    model.eval()
    plain = model.image_scores(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.image_scores(features), plain)


def test_the_head_changes_no_detection(passed: Any) -> None:
    model, _, _ = passed
    image = [{"image": unlabeled_sample(0).weak.image}]
    model.eval()
    before = model(image)[0]["instances"].pred_boxes.tensor
    model.image_head[0].weight.data.zero_()
    assert torch.equal(model(image)[0]["instances"].pred_boxes.tensor, before)


def test_its_losses_have_a_weight_of_their_own() -> None:
    method = _method(unsup_loss_weight=3.5)
    clock = Clock(0, 0, 10)
    assert method.weight("loss_image", clock) == pytest.approx(0.05)
    assert method.weight("loss_image_unsup", clock) == pytest.approx(0.05 * 3.5)
    assert method.weight("loss_cls_unsup", clock) == 3.5
    assert method.weight("loss_cls", clock) == 1.0
