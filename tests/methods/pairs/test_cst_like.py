"""CST-like: the weight of a label by hand, the ring, and what is left of it if all agree."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dre_ssod.methods import Clock
from dre_ssod.methods.pairs.cst_like import consistency
from dre_ssod.methods.parts.thresholds import above
from dre_ssod.methods.unbiased.unbiased_teacher import UnbiasedTeacher
from dre_ssod.modeling.student_batch import PairBatch
from dre_ssod.teacher import observe
from tests.engine.steps import SAMPLE_ALL
from tests.methods.every import batch_of, swapped, trainer_of
from tests.tiny_dataset import TinyDataset

NAME = "CSTLike"
CLOCK = Clock(2, 2, 6)


def test_the_weight_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    one = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    divergence = (one + math.log(1.0 / 0.75)) / 2
    assert consistency(p, q).item() == pytest.approx(1 - divergence / math.log(2.0), rel=1e-5)


def test_it_is_1_where_both_agree_0_where_they_exclude_each_other_and_symmetric() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 50, 4, generator=generator).softmax(dim=2)
    torch.testing.assert_close(consistency(p, p), torch.ones(50))
    torch.testing.assert_close(consistency(p, q), consistency(q, p))
    assert ((consistency(p, q) > 0.0) & (consistency(p, q) < 1.0)).all()
    assert consistency(torch.eye(4)[:1], torch.eye(4)[1:2]).item() == pytest.approx(0.0, abs=1e-6)


def test_each_teacher_labels_for_the_other_student(data: TinyDataset, tmp_path: Path) -> None:
    run = trainer_of(NAME, data, tmp_path)
    samples = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS).unlabeled
    found = run.method.find(run.teacher, samples, CLOCK)
    bound = above(run.method.settings.score_threshold)
    weights = []
    for (_, labels), other in zip(found, reversed(run.teacher.detectors), strict=True):
        expected = observe(other, samples, bound).detections
        for ours, theirs in zip(labels, expected, strict=True):
            assert torch.equal(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
            assert torch.equal(ours.gt_scores, theirs.gt_scores)
            weights.append(ours.gt_consistency)
    every = torch.cat(weights)
    assert len(every) > 0
    assert (every < 1.0).any()
    assert not every.requires_grad
    # The student's own teacher has a say in how much its labels weigh, and in nothing else.
    (_, before), _ = found
    head = run.teacher.detectors[0].roi_heads.box_predictor.cls_score
    head.weight.data.neg_()
    (_, after), _ = run.method.find(run.teacher, samples, CLOCK)
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one.gt_boxes.tensor, two.gt_boxes.tensor)
        assert torch.equal(one.gt_scores, two.gt_scores)
        assert not torch.equal(one.gt_consistency, two.gt_consistency)


def test_detectors_that_change_places_change_their_labels(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path)
    samples = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS).unlabeled
    before = run.method.find(run.teacher, samples, CLOCK)
    run.teacher.load_state_dict(swapped(run.teacher.state_dict()))
    after = run.method.find(run.teacher, samples, CLOCK)
    for (_, ours), (_, theirs) in zip(before, reversed(after), strict=True):
        for one, two in zip(ours, theirs, strict=True):
            assert torch.equal(one.gt_boxes.tensor, two.gt_boxes.tensor)
            torch.testing.assert_close(one.gt_consistency, two.gt_consistency)


def test_two_detectors_that_are_one_learn_twice_what_unbiased_teacher_does(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path, **SAMPLE_ALL)
    for model in (run.student, run.teacher):
        model.partner.load_state_dict(model.detectors[0].state_dict())
    batch = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS)
    first = run.method.student_batch(run.teacher, batch, CLOCK).first
    plain = UnbiasedTeacher(run.method.settings)
    alone = plain.student_batch(run.teacher.detectors[0], batch, CLOCK)
    both = run.student(PairBatch(first, first))
    once = run.student.detectors[0](alone)
    assert both.figures["consistency"].total > 0.0
    for terms in ("supervised", "unsupervised"):
        for name, value in getattr(once, terms).items():
            torch.testing.assert_close(getattr(both, terms)[name], 2 * value, rtol=1e-4, atol=1e-5)


def test_foreground_weighs_what_its_label_does_and_background_1(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path, **SAMPLE_ALL)
    batch = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS)
    first = run.method.student_batch(run.teacher, batch, CLOCK).first
    full = run.student.detectors[0](first).unsupervised["loss_cls_unsup"]
    for labels in first.labels.cls.instances():
        labels.gt_consistency.zero_()
    none = run.student.detectors[0](first).unsupervised["loss_cls_unsup"]
    assert 0.0 < none < full
