"""An inspection follows the rules of the step and leaves no trace of itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from detectron2.structures import pairwise_iou
from detectron2.utils.events import EventStorage
from torch import nn

from dre_ssod.geometry import map_boxes, relative_matrix
from dre_ssod.inspection.inspect import Inspection, inspect
from dre_ssod.methods import Clock
from dre_ssod.methods.dre import DRE
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.structures import UnlabeledSample
from dre_ssod.teacher import observe
from tests.engine.models import opinionated
from tests.factories import NUM_CLASSES, tiny_cfg, tiny_model, unlabeled_sample

TAU = 0.4
SAMPLES = [unlabeled_sample(0), unlabeled_sample(1)]


@pytest.fixture(scope="module")
def teacher() -> SemiSupervisedRCNN:
    return opinionated(tiny_model(tiny_cfg(), seed=1, spread=0.5)).eval()


@pytest.fixture(scope="module")
def student() -> SemiSupervisedRCNN:
    return tiny_model(tiny_cfg(), seed=2, spread=0.5).train()


def look(
    teacher: SemiSupervisedRCNN,
    student: SemiSupervisedRCNN,
    samples: Sequence[UnlabeledSample] = SAMPLES,
    tau: float = TAU,
    prc: bool = True,
    seed: int = 0,
) -> list[Inspection]:
    method = DRE(DRE.Settings(score_threshold=tau, prc=prc))
    return inspect(teacher, student, samples, method, Clock(5, 0, 10), seed)


def test_pseudo_labels_are_those_of_the_step(
    teacher: SemiSupervisedRCNN, student: SemiSupervisedRCNN
) -> None:
    found = look(teacher, student)
    opinion = observe(teacher, SAMPLES, TAU)
    assert sum(len(i.weak_labels) for i in found) > 0
    for inspection, weak, strong in zip(
        found, opinion.detections, opinion.carry(opinion.detections).instances(), strict=True
    ):
        assert torch.equal(inspection.weak_labels.gt_sigma, weak.gt_sigma)
        assert torch.equal(inspection.strong_labels.gt_boxes.tensor, strong.gt_boxes.tensor)


def test_proposals_are_labeled_by_their_overlap_with_the_pseudo_labels(
    teacher: SemiSupervisedRCNN, student: SemiSupervisedRCNN
) -> None:
    seen = set()
    for inspection in look(teacher, student):
        proposals, labels = inspection.proposals, inspection.strong_labels
        assert 0 < len(proposals) <= student.roi_heads.batch_size_per_image
        best = pairwise_iou(labels.gt_boxes, proposals.proposal_boxes).max(dim=0)
        is_foreground = proposals.gt_classes < NUM_CLASSES
        assert torch.equal(is_foreground, best.values >= 0.5)
        expected = labels.gt_classes[best.indices][is_foreground]
        assert torch.equal(proposals.gt_classes[is_foreground], expected)
        seen |= set(is_foreground.tolist())
    assert seen == {True, False}


def test_weights_are_the_teachers_opinion_of_the_boxes_shown_on_the_weak_view(
    teacher: SemiSupervisedRCNN, student: SemiSupervisedRCNN
) -> None:
    found = look(teacher, student)
    opinion = observe(teacher, SAMPLES, TAU)
    # The teacher scores, without any mapping, what the picture shows on its own view.
    boxes = [inspection.proposals_on_weak_view() for inspection in found]
    with torch.no_grad():
        scores = teacher.roi_heads.score_boxes(opinion._features, boxes)
    foreground = torch.cat([i.proposals.gt_classes for i in found]) < NUM_CLASSES
    best, label = scores.probabilities[:, :-1].max(dim=1)
    quality = scores.quality(label)
    assert quality is not None
    expected = torch.where(foreground, best * quality, scores.probabilities[:, -1])
    shown = torch.cat([i.proposals.weight for i in found])
    torch.testing.assert_close(shown, expected)
    assert shown.std() > 0.01


def test_boxes_on_the_weak_view_are_the_mapped_and_clipped_proposals(
    teacher: SemiSupervisedRCNN, student: SemiSupervisedRCNN
) -> None:
    [inspection, _] = look(teacher, student)
    sample = inspection.sample
    mapped = map_boxes(
        inspection.proposals.proposal_boxes.tensor,
        relative_matrix(sample.strong.matrix, sample.weak.matrix),
    )
    height, width = sample.weak.size
    limit = torch.tensor([width, height, width, height])
    clipped = torch.minimum(mapped.clamp(min=0), limit)
    assert torch.equal(inspection.proposals_on_weak_view().tensor, clipped)


def test_without_prc_there_are_no_weights(
    teacher: SemiSupervisedRCNN, student: SemiSupervisedRCNN
) -> None:
    assert not look(teacher, student, prc=False)[0].proposals.has("weight")


def test_without_pseudo_labels_all_proposals_are_background(
    teacher: SemiSupervisedRCNN, student: SemiSupervisedRCNN
) -> None:
    for inspection in look(teacher, student, tau=1.0):
        assert len(inspection.weak_labels) == len(inspection.strong_labels) == 0
        assert (inspection.proposals.gt_classes == NUM_CLASSES).all()


def test_the_seed_draws_the_proposals(
    teacher: SemiSupervisedRCNN, student: SemiSupervisedRCNN
) -> None:
    def drawn(seed: int) -> torch.Tensor:
        # A low tau: more foreground and background proposals than are sampled.
        return look(teacher, student, tau=0.1, seed=seed)[0].proposals.proposal_boxes.tensor

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_no_trace_is_left(teacher: SemiSupervisedRCNN) -> None:
    """Not in weights, batch norms that learn, modes, gradients, random state or event storage."""
    head = {"MODEL.ROI_BOX_HEAD.NUM_CONV": 1, "MODEL.ROI_BOX_HEAD.NORM": "BN"}
    cfg = tiny_cfg(**{"MODEL.TIMM.NORM": "BN"}, **head)
    student = tiny_model(cfg, seed=2, spread=0.5).train()
    for part in (student.backbone, student.roi_heads.box_head):
        assert any(isinstance(m, nn.BatchNorm2d) for m in part.modules())
    # A norm that is frozen stays so.
    frozen = next(m for m in student.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    frozen.eval()
    before = copy.deepcopy(student.state_dict())
    modes = [module.training for module in student.modules()]
    state = torch.get_rng_state()
    with EventStorage() as storage:
        look(teacher, student)
        assert storage.latest() == {}
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in student.modules()] == modes
    after = student.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in student.parameters())
