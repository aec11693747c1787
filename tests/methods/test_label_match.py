"""LabelMatch: thresholds, the three kinds of regions, soft targets and mining, restated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from PIL import Image as PillowImage
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.data.views.pixels import PixelRecipe
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.methods import Clock
from dre_ssod.methods.label_match import LabelMatch, sharpen, soft_cross_entropy
from dre_ssod.methods.parts.score_ranks import BINS, count_scores
from dre_ssod.modeling.box_predictor import BoxPredictions
from dre_ssod.modeling.counts import RegionCounts
from dre_ssod.modeling.regions import Regions
from tests.engine.models import opinionated
from tests.engine.steps import batch as make_batch
from tests.engine.steps import make_trainer, run
from tests.factories import NUM_CLASSES, SIZE, labels_alone, tiny_cfg, tiny_model, unlabeled_sample
from tests.modeling.regions import make_heads

CLOCK = Clock(5, 0, 100)
# Labels: 0 reliable, 1 uncertain and agreed upon by the teacher, 2 uncertain and not.
LABELS = ((10.0, 10.0, 30.0, 30.0), (40.0, 10.0, 60.0, 40.0), (5.0, 40.0, 25.0, 60.0))
# Of each region, K for background; classes of the labels are their numbers.
REGIONS = (0, 0, 1, 1, 2, 2, NUM_CLASSES, NUM_CLASSES)


class Opinion:
    """A teacher that says given probabilities and refined boxes."""

    def __init__(self, probabilities: Tensor, boxes: Tensor) -> None:
        self.probabilities, self._boxes = probabilities, boxes

    def refined(self, classes: Tensor) -> Tensor:
        assert classes.tolist() == [min(number, NUM_CLASSES - 1) for number in REGIONS]
        return self._boxes


def _record(*classes: int, crowd: int | None = None) -> dict[str, Any]:
    found = [{"category_id": c, "bbox": [0, 0, 1, 1], "bbox_mode": 0} for c in classes]
    if crowd is not None:
        found.append({"category_id": crowd, "bbox": [0, 0, 1, 1], "bbox_mode": 0, "iscrowd": 1})
    return {"file_name": "a.png", "annotations": found}


def _method(**settings: Any) -> LabelMatch:
    return LabelMatch(replace(LabelMatch.Settings(), **settings))


def _regions(opinion: Opinion, weak: Tensor, seed: int = 0) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    head = make_heads(**{"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True})
    rows = torch.tensor([min(number, 2) for number in REGIONS])
    matched = torch.tensor(LABELS)[rows]
    boxes = matched + torch.randn(8, 4, generator=generator)
    sampled = Instances(SIZE, proposal_boxes=Boxes(boxes), gt_boxes=Boxes(matched))
    sampled.gt_reliable = torch.tensor([1.0, 0.0, 0.0])[rows]
    sampled.gt_weak_box = weak[rows]
    logits = torch.randn(8, NUM_CLASSES + 1, generator=generator, requires_grad=True)
    deltas = torch.randn(8, 4, generator=generator, requires_grad=True)
    count = torch.tensor(8.0)
    return Regions(
        head.heads.box_predictor,
        [sampled],
        BoxPredictions(logits, deltas, None),
        torch.tensor(REGIONS),
        RegionCounts(count, count, count),
        count,
        lambda boxes: opinion,
    )


def _case() -> Regions:
    """The teacher is right about labels 0 and 1, sure of all; it places those of label 2 wrong."""
    weak = torch.tensor(LABELS) + 3.0
    refined = weak[[min(number, 2) for number in REGIONS]].clone()
    refined[4:6] += 8.0
    probabilities = torch.full((8, NUM_CLASSES + 1), 0.04)
    for row, number in enumerate(REGIONS):
        probabilities[row, number] = 0.88
    return _regions(Opinion(probabilities, refined), weak)


# Views


def test_the_weak_and_the_strong_view_share_a_flip_and_nothing_else(tmp_path: Path) -> None:
    path = str(tmp_path / "image.png")
    PillowImage.fromarray(np.full((60, 40, 3), 90, np.uint8)).save(path)
    cfg = tiny_cfg(**{"INPUT.MIN_SIZE_TRAIN": (20, 40), "SSOD.STRONG_VIEW.LONG_SIDES": (20, 90)})
    _, mapper = _method().mappers(cfg)
    samples = [mapper({"file_name": path}, np.random.default_rng(seed)) for seed in range(40)]
    flips = [(s.weak.matrix[0, 0] < 0, s.strong.matrix[0, 0] < 0) for s in samples]
    assert all(weak == strong for weak, strong in flips)
    assert {bool(weak) for weak, _ in flips} == {False, True}
    assert sum(s.weak.size == s.strong.size for s in samples) < 10
    # Pixels of the strong views alone change, in most of them.
    assert all((s.weak.image == 90).all() for s in samples)
    assert sum(bool((s.strong.image != 90).any()) for s in samples) > 20


def test_pixels_are_unbiased_teachers_without_erasing_on_labeled_images() -> None:
    cfg = tiny_cfg(**{"SSOD.LABELED_VIEW.LONG_SIDES": (205, 1843)})
    labeled, unlabeled = _method().mappers(cfg)
    weak, strong = unlabeled.drawn
    assert labeled.recipe.pixels == PixelRecipe(erasing=())
    assert strong.pixels == PixelRecipe()
    assert (labeled.recipe.long_sides, strong.long_sides) == ((205, 1843), None)
    assert weak == ViewRecipe.weak(cfg)
    for recipe in (labeled.recipe, strong):
        assert (recipe.photometric, recipe.geometric, recipe.erase) == (False, None, None)


# Thresholds


def test_boxes_are_counted_per_labeled_image_and_class() -> None:
    method = _method()
    pools = labels_alone([_record(0, 0, 1), _record(0, crowd=2), _record()], 3)
    method.study(pools)
    # Class 2 has no object: it counts as one in all images.
    torch.testing.assert_close(method._ranks._boxes_per_image, torch.tensor([1.0, 1 / 3, 1 / 3]))
    # The same, where training leaves out images without boxes.
    method.study(replace(pools, labeled=pools.labeled[:2], empty=1))
    torch.testing.assert_close(method._ranks._boxes_per_image, torch.tensor([1.0, 1 / 3, 1 / 3]))


def test_thresholds_are_scores_at_the_ranks_of_the_labeled_classes() -> None:
    method = _method(reliable_share=0.25, score_threshold=0.7)
    method.study(labels_alone([_record(0, 1), _record(0)], 3))
    # Eight images: low at ranks 8, 4, 4; high at 2, 1, 1.
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.95, 0.55, 0.35, 0.15])
    classes = torch.tensor([0] * 9 + [1] * 4)
    method.learn({"scores": count_scores(scores, classes, 3), "images": torch.tensor([8.0])})
    high, low = method.thresholds(3)
    expected = (torch.tensor([0.8, 0.95, 0.05]), torch.tensor([0.2, 0.15, 0.05]))
    for found, score in zip((high, low), expected, strict=True):
        # A class that was never seen gets the lowest score there is.
        assert ((score - found >= 0.0) & (score - found < 1 / BINS)).all()


def test_tau_stands_in_until_a_rank_is_reached() -> None:
    method = _method(score_threshold=0.7)
    assert method.thresholds(3)[0].tolist() == pytest.approx([0.7] * 3)
    method.study(labels_alone([_record(0)] * 4, 3))
    method.learn({"scores": torch.zeros(3, BINS), "images": torch.tensor([4.0])})
    high, low = method.thresholds(3)
    # Ranks 4, 1, 1 for low, below 1 for high.
    assert high.tolist() == pytest.approx([0.7] * 3)
    assert low.tolist() == pytest.approx([0.05] * 3)


def test_low_is_never_above_high() -> None:
    method = _method(score_threshold=0.3)
    method.study(labels_alone([_record(0)], 1))
    method.learn(
        {
            "scores": count_scores(torch.tensor([0.9] * 4), torch.zeros(4).long(), 1),
            "images": torch.tensor([4.0]),
        }
    )
    high, low = method.thresholds(1)
    assert high.tolist() == low.tolist() == pytest.approx([0.3])


# Labels


@pytest.fixture(scope="module")
def teacher() -> Any:
    return opinionated(tiny_model(tiny_cfg(), seed=2, spread=5.0)).eval()


def test_labels_from_low_on_are_told_apart_by_high(
    teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = _method()
    bounds = torch.tensor([0.9, 0.99, 0.9]), torch.tensor([0.5, 0.6, 0.5])
    monkeypatch.setattr(method, "thresholds", lambda num_classes: bounds)
    labels = method.label(teacher, [unlabeled_sample(0), unlabeled_sample(1)], CLOCK)
    assert labels.rpn is labels.cls is labels.box
    kinds = set()
    for found in labels.cls.origin:
        high, low = (bound[found.gt_classes] for bound in bounds)
        assert (found.gt_scores >= low).all()
        assert torch.equal(found.gt_reliable, (found.gt_scores >= high).float())
        assert torch.equal(found.gt_weak_box, found.gt_boxes.tensor)
        kinds |= set(found.gt_reliable.tolist())
    assert kinds == {0.0, 1.0}


def test_what_is_counted_is_all_detections_of_all_passes_of_a_step(teacher: Any) -> None:
    samples = [unlabeled_sample(number) for number in range(2)]
    method = _method()
    assert method.label(teacher, samples, CLOCK).counts == {}
    method.study(labels_alone([_record(0)]))
    assert method.tally([]) == {}
    tally = method.tally([method.label(teacher, [sample], CLOCK).counts for sample in samples])
    assert tally["images"].tolist() == [2.0]
    whole = method.tally([method.label(teacher, samples, CLOCK).counts])
    assert tally["scores"].sum() > 0
    torch.testing.assert_close(tally["scores"], whole["scores"])


def test_it_learns_from_its_own_steps_and_resumes() -> None:
    trainer = make_trainer([make_batch(0), make_batch(1)])
    method = trainer.method = _method(score_threshold=0.3)
    method.study(labels_alone([_record(0, 1, 2)]))
    found = run(trainer, (0, 1))
    assert "ssod/reliable_regions" in found
    assert method.state_dict()["images"].sum() == 2.0
    again = _method(score_threshold=0.3)
    again.study(labels_alone([_record(0, 1, 2)]))
    again.load_state_dict(method.state_dict())
    for one, two in zip(again.thresholds(3), method.thresholds(3), strict=True):
        assert torch.equal(one, two)


# Losses


def test_mining_promotes_what_the_teacher_agrees_with() -> None:
    method = _method()
    assert method.promoted(_case()).tolist() == [False, False, True, True, *[False] * 4]
    # Means over a label's regions of IoU and score decide; both bounds belong to what passes.
    assert not _method(mining_score=0.881).promoted(_case()).any()
    far = _case()
    boxes = far.teacher._boxes
    boxes[2] += 10.0
    label = far.sampled[0].gt_weak_box[2:4]
    mean = pairwise_iou(Boxes(boxes[2:4]), Boxes(label)).diag().mean().item()
    assert _method(mining_iou=mean - 1e-4).promoted(far)[2:4].all()
    assert not _method(mining_iou=mean + 1e-4).promoted(far)[2:4].any()


def test_losses_by_kind_of_region() -> None:
    regions = _case()
    found = _method().unlabeled_losses(regions, regions)
    hard = soft = box = 0.0
    targets = regions.offsets[1]
    for row, number in enumerate(REGIONS):
        log_p = regions.predictions.logits[row].log_softmax(dim=0)
        if number == 2:
            # Probabilities of .88 and .04, squared and normalized.
            sharp = regions.teacher.probabilities[row] ** 2
            sharp = sharp / sharp.sum()
            soft -= (sharp * log_p).sum().item()
        else:
            hard -= log_p[number].item()
        if number in (0, 1):
            difference = regions.predictions.deltas[row] - targets[row]
            box += F.smooth_l1_loss(difference, torch.zeros(4), reduction="sum").item()
    terms = found.unsupervised
    # Each kind of class loss has a divisor of its own; box losses that of all regions.
    hard_regions = 8 - REGIONS.count(2)
    assert 0 < hard_regions < 8
    expected = hard / hard_regions + soft / 8
    assert terms["loss_cls_unsup"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["loss_box_reg_unsup"].item() == pytest.approx(box / 8, rel=1e-5)
    means = {name: (mean.total / mean.count).item() for name, mean in found.figures.items()}
    assert means == pytest.approx({"reliable_regions": 4 / 6, "promoted_regions": 2 / 6})


def test_promotion_turns_a_soft_region_into_a_hard_one() -> None:
    regions = _case()
    mined = _method().unlabeled_losses(regions, regions).unsupervised
    not_mined = _method(mining_score=1.0).unlabeled_losses(regions, regions).unsupervised
    targets = sharpen(regions.teacher.probabilities, 0.5)
    hard, soft = regions.cross_entropy(), soft_cross_entropy(regions, targets)
    # Labels 1 and 2 are uncertain, and mining promotes the first of them.
    is_soft = torch.tensor([number in (1, 2) for number in REGIONS])
    still_soft = is_soft.clone()
    still_soft[2:4] = False
    for terms, chosen in ((mined, still_soft), (not_mined, is_soft)):
        expected = hard[~chosen].mean() + soft[chosen].sum() / 8
        torch.testing.assert_close(terms["loss_cls_unsup"], expected)
    boxes = regions.smooth_l1().sum(dim=1)[2:4].sum() / 8
    torch.testing.assert_close(mined["loss_box_reg_unsup"] - not_mined["loss_box_reg_unsup"], boxes)


def test_soft_targets_are_the_softmax_of_logits_over_the_temperature() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sharp = sharpen(logits.softmax(dim=1), 0.5)
    torch.testing.assert_close(sharp, (logits / 0.5).softmax(dim=1).detach())
    assert not sharp.requires_grad


def test_a_student_that_says_what_the_targets_say_gets_no_gradient() -> None:
    regions = _case()
    targets = regions.predictions.logits.softmax(dim=1).detach()
    soft_cross_entropy(regions, targets).sum().backward()
    gradient = regions.predictions.logits.grad
    assert gradient is not None
    assert gradient.abs().max() < 1e-6


def test_all_reliable_it_is_the_mean_teacher() -> None:
    regions = _case()
    regions.sampled[0].gt_reliable = torch.ones(8)
    plain = make_heads(**{"SSOD.METHOD": "MeanTeacher"}).method
    ours = _method().unlabeled_losses(regions, regions).unsupervised
    for name, loss in plain.unlabeled_losses(regions, regions).unsupervised.items():
        torch.testing.assert_close(ours[name], loss)


def test_without_labels_all_is_background() -> None:
    regions = _case()
    empty = Instances(SIZE, proposal_boxes=regions.sampled[0].proposal_boxes)
    nothing = replace(
        regions, sampled=[empty], classes=torch.full((8,), NUM_CLASSES), _ask=regions._ask
    )
    nothing.teacher.refined = lambda classes: torch.zeros(8, 4)  # type: ignore[method-assign]
    terms = _method().unlabeled_losses(nothing, nothing).unsupervised
    torch.testing.assert_close(terms["loss_cls_unsup"], nothing.cross_entropy().mean())
    assert terms["loss_box_reg_unsup"].item() == 0.0


# Following


@pytest.mark.parametrize(("iteration", "expected"), [(3, 0.996), (4, 0.0), (5, 0.996)])
def test_the_decay_is_constant_but_for_the_copy_after_the_burn_in(
    iteration: int, expected: float
) -> None:
    assert _method(ema_decay=0.996).decay(Clock(iteration, 4, 100)) == expected


def test_without_a_burn_in_nothing_is_copied() -> None:
    assert _method(ema_decay=0.996).decay(Clock(0, 0, 100)) == 0.996
