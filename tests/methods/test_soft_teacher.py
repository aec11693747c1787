"""Soft Teacher: box jitter, three label sets, soft background."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.methods import Clock
from dre_ssod.methods.parts.jitter import box_spread, jittered
from dre_ssod.methods.soft_teacher import SoftTeacher
from dre_ssod.teacher import TeacherPass
from tests.factories import NUM_CLASSES, affine, unlabeled_sample
from tests.methods.every import (
    EXPECTED,
    ONE_SIZE,
    batch_of,
    gradients_of,
    losses_of,
    out_of_sight,
    trainer_of,
)
from tests.methods.test_dre import Case
from tests.tiny_dataset import TinyDataset

NAME = "SoftTeacher"
METHOD = {"SSOD.METHOD": NAME}
VIEW = (4000, 6000)
LARGE = torch.tensor([[2000.0, 1500.0, 2400.0, 2100.0], [3000.0, 1000.0, 3300.0, 1300.0]])


# Box jitter


@dataclass
class FakePass:
    """A teacher that refines boxes by a rule, far from any border."""

    boxes: Tensor
    refine: Any

    @property
    def detections(self) -> list[Instances]:
        classes = torch.zeros(len(self.boxes), dtype=torch.int64)
        return [Instances(VIEW, gt_boxes=Boxes(self.boxes), gt_classes=classes)]

    @property
    def samples(self) -> list[Any]:
        @dataclass
        class Sized:
            size: tuple[int, int] = VIEW

        @dataclass
        class Sample:
            weak: Sized

        return [Sample(Sized())]

    def rescore(self, boxes: list[Boxes]) -> Any:
        refine = self.refine

        class Answer:
            def refined(self, classes: Tensor) -> Tensor:
                assert len(classes) == sum(map(len, boxes))
                return refine(torch.cat([b.tensor for b in boxes]))

        return Answer()


def spread(boxes: Tensor, refine: Any, times: int = 10, scale: float = 0.06) -> Tensor:
    (found,) = box_spread(FakePass(boxes, refine), times, scale)  # type: ignore[arg-type]
    return found


def test_without_jitter_there_is_no_spread() -> None:
    assert spread(LARGE, lambda boxes: boxes, scale=0.0).abs().max() <= 1e-6


def test_a_teacher_that_always_gives_one_box_has_no_spread() -> None:
    found = spread(LARGE, lambda boxes: LARGE[:1].expand(len(boxes), 4))
    assert torch.equal(found, torch.zeros(2))


def test_a_teacher_that_leaves_boxes_alone_spreads_as_the_noise_does() -> None:
    """0.06 * c4(10): a sample deviation is a little too small on average."""
    c4 = math.sqrt(2 / 9) * math.gamma(5) / math.gamma(4.5)
    found = spread(LARGE.repeat(2000, 1), lambda boxes: boxes)
    assert found.mean().item() == pytest.approx(0.06 * c4, rel=0.01)
    assert 0.06 * c4 == pytest.approx(0.0584, abs=1e-4)
    assert (found > 0.02).all()


def test_the_noise_of_an_edge_is_a_share_of_its_own_side() -> None:
    copies = jittered(torch.tensor([[100.0, 200.0, 300.0, 240.0]]), 20_000, 0.06)
    deviations = copies.std(dim=1)[0]
    expected = torch.tensor([12.0, 2.4, 12.0, 2.4])
    torch.testing.assert_close(deviations, expected, rtol=0.03, atol=0.0)
    correlation = torch.corrcoef(copies[0].T) - torch.eye(4)
    assert correlation.abs().max() < 0.05
    tiny = jittered(torch.tensor([[5.0, 5.0, 5.0, 5.0]]), 20_000, 0.06).std()
    assert tiny.item() == pytest.approx(0.06, rel=0.03)


@pytest.mark.parametrize("stretch", [(3.0, 1.0), (1.0, 0.25), (0.5, 0.5)])
def test_the_spread_goes_by_axis_and_not_by_scale(stretch: tuple[float, float]) -> None:
    """With a teacher that scales along; (w + h) / 2 as the divisor would fail here."""
    x, y = stretch
    scaled = LARGE * torch.tensor([x, y, x, y])
    values = []
    for boxes in (LARGE, scaled):
        torch.manual_seed(4)
        values.append(spread(boxes * 0.2, lambda b: b))
    torch.testing.assert_close(values[0], values[1])


def test_the_spread_by_hand() -> None:
    """Two copies of a box, refined to given boxes: deviations |a - b| / sqrt(2) of each edge."""
    given = torch.tensor([[10.0, 20.0, 50.0, 40.0], [14.0, 20.0, 50.0, 44.0]])
    found = spread(LARGE[:1], lambda boxes: given, times=2)
    # The mean box is 12, 20, 50, 42: 38 wide, 22 high.
    expected = (4 / 38 + 0 + 0 + 4 / 22) / math.sqrt(2) / 4
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_refined_boxes_are_clipped_to_the_view() -> None:
    given = torch.tensor([[-50.0, 0.0, 7000.0, 100.0], [-10.0, 0.0, 6500.0, 100.0]])
    assert spread(LARGE[:1], lambda boxes: given, times=2).item() == 0.0


def test_no_detection_has_no_spread() -> None:
    assert spread(LARGE[:0], lambda boxes: boxes).shape == (0,)


# Label sets


def _label(run: Any, samples: Any, **settings: Any) -> Any:
    method = SoftTeacher(SoftTeacher.Settings(**settings))
    torch.manual_seed(0)
    return method.label(run.teacher, samples, Clock(2, 2, 6))


def test_each_loss_has_the_labels_of_its_own_bound(data: TinyDataset, tmp_path: Path) -> None:
    run = trainer_of(NAME, data, tmp_path)
    samples = [unlabeled_sample(3, weak=affine(), strong=affine())]
    every = {"score_threshold": 0.2, "rpn_score": 0.2, "cls_score": 0.2, "max_spread": 1e6}
    (candidates,) = _label(run, samples, **every).box.origin
    assert len(candidates) > 4
    score = candidates.gt_scores.sort().values[len(candidates) // 2].item()
    rpn_score = candidates.gt_scores.sort().values[len(candidates) // 4].item()
    bound = candidates.gt_box_spread.sort().values[len(candidates) // 2].item()
    labels = _label(
        run, samples, score_threshold=0.2, rpn_score=rpn_score, cls_score=score, max_spread=bound
    )
    for name, chosen in (
        ("rpn", candidates.gt_scores > rpn_score),
        ("cls", candidates.gt_scores > score),
        ("box", candidates.gt_box_spread < bound),
    ):
        (found,) = getattr(labels, name).origin
        assert 0 < len(found) < len(candidates)
        assert torch.equal(found.gt_boxes.tensor, candidates[chosen].gt_boxes.tensor)
        (carried,) = getattr(labels, name).instances()
        # Both views are one here, so that only boxes of less than a pixel go.
        visible = found[found.gt_boxes.nonempty(1.0)]
        torch.testing.assert_close(carried.gt_scores, visible.gt_scores)
        torch.testing.assert_close(carried.gt_boxes.tensor, visible.gt_boxes.tensor)


@pytest.mark.parametrize(
    ("score", "u", "sets"),
    [(0.6, 0.01, {"box"}), (0.95, 0.05, {"rpn", "cls"}), (0.95, 0.01, {"rpn", "cls", "box"})],
)
def test_the_published_bounds(
    monkeypatch: pytest.MonkeyPatch, score: float, u: float, sets: set[str]
) -> None:
    found = Instances((64, 96), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]])))
    found.gt_classes, found.gt_scores = torch.tensor([0]), torch.tensor([score])
    samples = [unlabeled_sample(0)]
    seen = TeacherPass(samples, [found], None, {})  # type: ignore[arg-type]
    bounds = []

    def observe(teacher: Any, samples: Any, bound: float) -> TeacherPass:
        bounds.append(bound)
        return seen

    module = "dre_ssod.methods.soft_teacher"
    monkeypatch.setattr(f"{module}.observe", observe)
    monkeypatch.setattr(f"{module}.box_spread", lambda seen, times, scale: [torch.tensor([u])])
    labels = SoftTeacher(SoftTeacher.Settings()).label(None, samples, Clock(0, 0, 1))  # type: ignore[arg-type]
    assert {n for n in ("rpn", "cls", "box") if len(getattr(labels, n).instances()[0])} == sets
    assert bounds[0] == pytest.approx(0.5)
    assert bounds[0] > 0.5
    # One set where the bounds are one: regions are sampled for the box loss alone again.
    assert labels.rpn is labels.cls


def test_noise_is_drawn_for_every_step_and_the_same_for_one_seed(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path)
    samples = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS).unlabeled
    settings = {"score_threshold": 0.2, "max_spread": 1e6}

    def spreads(seed: int) -> Tensor:
        method = SoftTeacher(SoftTeacher.Settings(**settings))
        torch.manual_seed(seed)
        labels = method.label(run.teacher, samples, Clock(2, 2, 6)).box.origin
        return torch.cat([found.gt_box_spread for found in labels])

    assert torch.equal(spreads(1), spreads(1))
    assert not torch.equal(spreads(1), spreads(2))


# Losses


def test_classification_is_divided_by_the_sum_of_its_weights() -> None:
    case = Case(**METHOD)
    found = case.cls
    total = divisor = 0.0
    for row, label in enumerate(case.regions.classes.tolist()):
        weight = case.scores.background[row].item() if label == NUM_CLASSES else 1.0
        total += weight * F.cross_entropy(case.logits[row], torch.tensor(label)).item()
        divisor += weight
    assert found.item() == pytest.approx(total / divisor, rel=1e-5)


def test_a_teacher_that_sees_background_everywhere_leaves_the_plain_mean() -> None:
    case = Case(**METHOD)
    case.scores.background.fill_(1.0)
    expected = F.cross_entropy(case.logits, case.regions.classes)
    torch.testing.assert_close(case.cls, expected)


def test_a_teacher_that_sees_none_leaves_the_foreground() -> None:
    case = Case(**METHOD)
    case.scores.background.zero_()
    chosen = case.regions.is_foreground
    expected = F.cross_entropy(case.logits[chosen], case.regions.classes[chosen])
    torch.testing.assert_close(case.cls, expected)
    barren = Case(torch.full((3,), NUM_CLASSES), **METHOD)
    barren.scores.background.zero_()
    assert barren.cls.item() == 0.0


def test_no_gradient_reaches_the_teachers_opinion() -> None:
    case = Case(**METHOD)
    case.scores.background.requires_grad_()
    (case.cls + case.box).backward()
    assert case.logits.grad is not None
    assert case.scores.background.grad is None


def test_boxes_have_plain_l1_over_all_sampled_regions() -> None:
    case = Case(**METHOD, **{"MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0})
    chosen = case.regions.is_foreground
    expected = (case.deltas[chosen] - case.targets[chosen]).abs().sum() / 10
    torch.testing.assert_close(case.box, expected)


def test_the_spread_of_a_label_never_changes_the_classification_loss(
    data: TinyDataset, tmp_path: Path
) -> None:
    values = []
    for bound in (0.0, 1e6):
        keys = {**EXPECTED[NAME].certain, "SSOD.SOFT_TEACHER.BOX_SPREAD": bound}
        run = trainer_of(NAME, data, tmp_path / str(bound), **ONE_SIZE, **keys)
        values.append(losses_of(run, batch_of(run)).unsupervised)
    assert torch.equal(values[0]["loss_cls_unsup"], values[1]["loss_cls_unsup"])
    assert values[0]["loss_box_reg_unsup"] == 0.0 < values[1]["loss_box_reg_unsup"]


def test_without_labels_the_background_still_teaches(data: TinyDataset, tmp_path: Path) -> None:
    run = trainer_of(NAME, data, tmp_path, **ONE_SIZE)
    batch = batch_of(run)
    batch = replace(batch, unlabeled=[out_of_sight(sample) for sample in batch.unlabeled])
    losses = losses_of(run, batch).unsupervised
    assert losses["loss_cls_unsup"] > 0.0
    assert losses["loss_box_reg_unsup"] == 0.0
    assert any(
        g.any() for g in gradients_of(run, {"loss_cls_unsup": losses["loss_cls_unsup"]}).values()
    )
