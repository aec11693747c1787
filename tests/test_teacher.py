"""Where the teacher's frame meets the student's: pseudo-labels, and scores of proposals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import Tensor

from dre_ssod.data.views.geometric import GeometricRecipe
from dre_ssod.data.views.views import ViewRecipe, make_view
from dre_ssod.geometry import map_boxes, relative_matrix
from dre_ssod.methods import build_method
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.student_batch import StudentBatch
from dre_ssod.structures import UnlabeledSample, View
from dre_ssod.teacher import CarriedLabels, Labels, TeacherPass, observe
from dre_ssod.transfers import to_device
from tests.factories import (
    BOXES,
    SIZE,
    affine,
    assert_same,
    beta_4,
    draw,
    flip,
    gpu_only,
    labeled_image,
    mapped,
    pseudo_labels,
    tiny_cfg,
    tiny_model,
    unlabeled_sample,
)

SQUARE = ((30.0, 20.0, 50.0, 40.0),)
# Axis-aligned, so that a box comes back from the strong view as it went there.
WEAK, STRONG = affine(scale=0.75), affine(scale=0.9, shift=(3.0, 2.0)) @ flip()


def _teacher(**overrides: Any) -> SemiSupervisedRCNN:
    return tiny_model(tiny_cfg(**overrides), spread=0.5).eval()


def _samples() -> list[UnlabeledSample]:
    return [
        unlabeled_sample(0, weak=WEAK, strong=STRONG),
        unlabeled_sample(1, BOXES[:1], weak=flip(), strong=affine(shift=(-4.0, 3.0))),
    ]


def _visible(image: Tensor) -> list[float]:
    """(x1, y1, x2, y2) of what is bright in a (3, H, W) image."""
    ys, xs = (image.amax(dim=0) > 150).nonzero(as_tuple=True)
    return [xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1]


def _opinion(sample: UnlabeledSample, boxes: Tensor) -> TeacherPass:
    """An opinion that holds the given weak-view boxes as pseudo-labels."""
    labels = pseudo_labels(boxes.tolist(), size=sample.weak.size)
    return TeacherPass([sample], [labels], _teacher(), {})


def blank(size: tuple[int, int], matrix: Tensor | None = None) -> View:
    """A view of which only the geometry matters."""
    image = torch.zeros((3, *size), dtype=torch.uint8)
    return View(image, affine() if matrix is None else matrix)


@torch.no_grad()
def test_pseudo_labels_are_the_teachers_detections_on_the_weak_view() -> None:
    teacher, samples = _teacher(), _samples()
    detections = teacher.inference([{"image": s.weak.image} for s in samples], do_postprocess=False)
    labels = observe(teacher, samples, score_threshold=0.05).detections
    for found, label in zip(detections, labels, strict=True):
        assert len(label) == len(found) > 5
        assert label.image_size == SIZE
        torch.testing.assert_close(label.gt_boxes.tensor, found.pred_boxes.tensor)
        assert torch.equal(label.gt_classes, found.pred_classes)
        torch.testing.assert_close(label.gt_scores, found.scores)
        torch.testing.assert_close(label.gt_sigma, found.pred_boxes_sigma)
        torch.testing.assert_close(label.gt_localization_quality, found.localization_quality)


def test_a_detection_with_a_score_of_exactly_tau_is_kept() -> None:
    teacher, samples = _teacher(), _samples()[:1]
    scores = observe(teacher, samples, 0.0).detections[0].gt_scores.sort(descending=True).values
    tau = scores[3].item()
    assert len(observe(teacher, samples, tau).detections[0]) == 4
    above = torch.nextafter(scores[3], torch.tensor(1.0)).item()
    assert len(observe(teacher, samples, above).detections[0]) == 3


@pytest.mark.parametrize("tau", [0.2, 0.3, 0.4])
def test_filtering_before_nms_is_filtering_after_it(tau: float) -> None:
    teacher, samples = _teacher(), _samples()
    everything = observe(teacher, samples, 0.0).detections
    filtered = observe(teacher, samples, tau).detections
    assert any(0 < len(few) < len(many) for few, many in zip(filtered, everything, strict=True))
    for few, many in zip(filtered, everything, strict=True):
        assert_same(few, many[many.gt_scores >= tau])


def test_without_a_variance_branch_pseudo_labels_have_no_quality() -> None:
    teacher = _teacher(**{"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "smooth_l1"})
    (labels,) = observe(teacher, _samples()[:1], 0.0).detections
    assert labels.get_fields().keys() == {"gt_boxes", "gt_classes", "gt_scores"}


@pytest.mark.parametrize(
    ("weak", "strong"),
    [
        (affine(), flip()),
        (flip(), affine(shift=(9.0, -6.0))),
        (affine(scale=0.8), affine(scale=1.1, shift=(-5.0, 2.0))),
        (affine(scale=0.8) @ flip(), affine(degrees=20.0, shift=(12.0, -12.0))),
    ],
    ids=["flip", "shift", "scale", "rotate"],
)
def test_a_pseudo_label_lands_on_the_square_that_the_strong_view_shows(
    weak: Tensor, strong: Tensor
) -> None:
    sample = unlabeled_sample(0, SQUARE, weak, strong)
    opinion = _opinion(sample, torch.tensor([_visible(sample.weak.image)]))
    (labels,) = opinion.carry(opinion.detections).instances()
    assert labels.image_size == sample.strong.size
    shown = _visible(sample.strong.image)
    assert labels.gt_boxes.tensor[0].tolist() == pytest.approx(shown, abs=1.5)


def test_a_pseudo_label_lands_on_the_square_in_views_as_they_are_drawn_in_training() -> None:
    """Through the real view maker: random flips, sizes, translations, rotations and shears."""
    image = draw((120, 150), ((50.0, 40.0, 90.0, 75.0),)).permute(1, 2, 0).contiguous().numpy()
    weak = ViewRecipe((100, 160), "range", 300, "horizontal", "BGR", fill=(0, 0, 0))
    strong = ViewRecipe(
        (100, 160),
        "range",
        300,
        "horizontal",
        "BGR",
        fill=(0, 0, 0),
        geometric=GeometricRecipe(0.1, 20.0, 20.0),
    )
    for seed in range(12):
        rng = np.random.default_rng(seed)
        sample = UnlabeledSample("", make_view(image, weak, rng), make_view(image, strong, rng))
        opinion = _opinion(sample, torch.tensor([_visible(sample.weak.image)]))
        (labels,) = opinion.carry(opinion.detections).instances()
        shown = _visible(sample.strong.image)
        assert labels.gt_boxes.tensor[0].tolist() == pytest.approx(shown, abs=2.5), seed


def test_boxes_that_leave_the_strong_view_are_clipped_or_dropped_with_all_they_carry() -> None:
    boxes = ((10.0, 10.0, 30.0, 30.0), (40.0, 10.0, 60.0, 30.0), (60.0, 30.0, 90.0, 60.0))
    labels = pseudo_labels(boxes, (0.1, 0.2, 0.3))
    labels.gt_sigma = torch.ones(3, 4)
    # The view begins at x = 50: the first box is outside, the second one half inside.
    strong = blank((50, 40), affine(shift=(-50.0, 0.0)))
    (shown,) = CarriedLabels([labels], [blank(SIZE)], [strong]).instances()
    assert shown.image_size == (50, 40)
    assert shown.gt_boxes.tensor.tolist() == [[0.0, 10.0, 10.0, 30.0], [10.0, 30.0, 40.0, 50.0]]
    assert shown.gt_classes.tolist() == [1, 2]
    assert shown.gt_localization_quality.tolist() == pytest.approx([0.2, 0.3])
    assert shown.gt_scores.tolist() == pytest.approx([0.9, 0.9])
    assert not shown.has("gt_sigma")


def test_a_sliver_below_one_pixel_is_dropped() -> None:
    labels = pseudo_labels(((10.0, 10.0, 30.0, 30.0), (10.0, 10.0, 32.0, 30.0)))
    # 0.5 and 2.5 pixels of the boxes remain.
    strong = blank(SIZE, affine(shift=(-29.5, 0.0)))
    (shown,) = CarriedLabels([labels], [blank(SIZE)], [strong]).instances()
    assert shown.gt_boxes.tensor.tolist() == [[0.0, 10.0, 2.5, 30.0]]


def test_images_keep_their_own_labels_also_where_some_have_none() -> None:
    labels = [pseudo_labels(BOXES[:count]) for count in (0, 2, 1, 0)]
    moved = [affine(shift=(-50.0, 0.0)), affine(shift=(-25.0, 0.0)), affine(), affine()]
    targets = [blank(SIZE, matrix) for matrix in moved]
    together = CarriedLabels(labels, [blank(SIZE)] * 4, targets).instances()
    for found, target, shown in zip(labels, targets, together, strict=True):
        (alone,) = CarriedLabels([found], [blank(SIZE)], [target]).instances()
        assert_same(shown, alone)
    assert [len(shown) for shown in together][2:] == [1, 0]


@gpu_only
def test_carrying_labels_does_not_drain_a_gpu() -> None:
    labels = [to_device(pseudo_labels(BOXES[:count]), torch.device("cuda")) for count in (1, 2)]
    targets = [blank(SIZE, affine(shift=(-50.0, 0.0))), blank(SIZE)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        shown = CarriedLabels(labels, [blank(SIZE)] * 2, targets).instances()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(shown[1]) == 2


def test_no_pseudo_labels_stay_none() -> None:
    sample = unlabeled_sample(0, ())
    opinion = _opinion(sample, torch.zeros(0, 4))
    (labels,) = opinion.carry(opinion.detections).instances()
    assert len(labels) == 0
    assert labels.gt_boxes.tensor.shape == (0, 4)
    assert labels.gt_localization_quality.shape == (0,)


@torch.no_grad()
def test_proposals_get_the_scores_that_the_teacher_gives_in_its_own_frame() -> None:
    teacher, samples = _teacher(), _samples()
    opinion = observe(teacher, samples, 0.5)
    # In weak coordinates, inside both views; a different number on each image.
    weak_boxes = [mapped(BOXES, WEAK), mapped(((20.0, 10.0, 52.0, 40.0),), flip())]
    strong_boxes = [
        map_boxes(boxes, relative_matrix(s.weak.matrix, s.strong.matrix))
        for boxes, s in zip(weak_boxes, samples, strict=True)
    ]
    images = teacher.preprocess_image([{"image": s.weak.image} for s in samples])
    features = teacher.backbone(images.tensor)
    expected = teacher.roi_heads.score_boxes(features, [Boxes(b) for b in weak_boxes])
    scores = opinion.score([Boxes(b) for b in strong_boxes])
    unaligned = teacher.roi_heads.score_boxes(features, [Boxes(b) for b in strong_boxes])
    best = scores.probabilities[:, :-1].argmax(dim=1)
    for read in (lambda s: s.probabilities, lambda s: s.quality(best)):
        value = read(scores)
        assert len(value) == 3
        torch.testing.assert_close(value, read(expected), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(value, read(unaligned), rtol=1e-3, atol=1e-3)
    # Its own placing of a box is in weak coordinates, too.
    torch.testing.assert_close(scores.refined(best), expected.refined(best), rtol=1e-3, atol=1e-2)


@torch.no_grad()
def test_proposals_outside_the_weak_view_are_scored_on_what_is_inside() -> None:
    teacher = _teacher()
    sample = unlabeled_sample(weak=affine(), strong=affine(shift=(20.0, 0.0)))
    opinion = observe(teacher, [sample], 0.5)
    # In the weak view it spans x from -15 to 20.
    scores = opinion.score([Boxes([[5.0, 10.0, 40.0, 40.0]])])
    features = teacher.backbone(teacher.preprocess_image([{"image": sample.weak.image}]).tensor)
    inside = teacher.roi_heads.score_boxes(features, [Boxes([[0.0, 10.0, 20.0, 40.0]])])
    torch.testing.assert_close(scores.probabilities, inside.probabilities)


def test_the_teacher_gets_no_gradient() -> None:
    teacher, student = _teacher(), tiny_model(tiny_cfg(), seed=1)
    assert all(p.requires_grad for p in teacher.roi_heads.parameters())
    samples = _samples()
    opinion = observe(teacher, samples, 0.3)
    batch = StudentBatch(
        labeled=[labeled_image(0)],
        strong=[{"image": s.strong.image} for s in samples],
        labels=Labels.single(opinion.carry(opinion.detections), opinion.score),
        method=build_method(tiny_cfg()),
    )
    assert all(len(labels) for labels in batch.labels.cls.instances())
    # Neither what it says of its own boxes nor what it says of the student's has a graph.
    scores = opinion.score([labels.gt_boxes for labels in batch.labels.cls.instances()])
    assert not scores.probabilities.requires_grad
    for labels in batch.labels.cls.instances():
        assert not labels.gt_boxes.tensor.requires_grad
        assert not labels.gt_localization_quality.requires_grad
    torch.manual_seed(0)
    with EventStorage():
        student(batch).total(beta_4).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)


def test_a_dead_teacher_still_lets_the_student_learn() -> None:
    student, samples = tiny_model(tiny_cfg(), seed=1), _samples()
    opinion = observe(_teacher(), samples, 1.0)
    assert [len(labels) for labels in opinion.detections] == [0, 0]
    batch = StudentBatch(
        labeled=[labeled_image(0)],
        strong=[{"image": s.strong.image} for s in samples],
        labels=Labels.single(opinion.carry(opinion.detections), opinion.score),
        method=build_method(tiny_cfg()),
    )
    torch.manual_seed(0)
    with EventStorage():
        losses = student(batch)
    total = losses.total(beta_4)
    assert torch.isfinite(total)
    total.backward()
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)
