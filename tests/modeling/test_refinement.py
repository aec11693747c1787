"""What TEST.VARIANCE_VOTING and TEST.RANK_BY_QUALITY make of the box head's detections."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from dre_ssod.modeling.box_predictor import BoxPredictions
from dre_ssod.modeling.refinement import PLAIN, vote_boxes
from tests.factories import NUM_CLASSES, SIZE, assert_same, tiny_cfg
from tests.modeling.test_box_predictor import (
    AGNOSTIC,
    REGIONS,
    _features,
    _predictor,
    _proposals,
)

VOTING = "TEST.VARIANCE_VOTING.ENABLED"
SIGMA_T = "TEST.VARIANCE_VOTING.SIGMA_T"
RANKING = "TEST.RANK_BY_QUALITY"


@pytest.mark.parametrize("agnostic", [False, True])
def test_voting_moves_the_boxes_of_inference_and_nothing_else(agnostic: bool) -> None:
    options = {AGNOSTIC: agnostic, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.1}
    plain = _predictor(tiny_cfg(**options), spread=0.3)
    voting = _predictor(tiny_cfg(**options, **{VOTING: True, SIGMA_T: 0.5}))
    voting.load_state_dict(plain.state_dict())
    predictions, proposals = plain(_features()), _proposals()
    before, kept = plain.inference(predictions, proposals)
    after, still_kept = voting.inference(predictions, proposals)
    assert all(torch.equal(a, b) for a, b in zip(kept, still_kept, strict=True))
    assert predictions.log_variance is not None
    start = 0
    for old, new, proposal in zip(before, after, proposals, strict=True):
        for name in ("scores", "pred_classes", "pred_boxes_sigma", "localization_quality"):
            assert torch.equal(old.get(name), new.get(name))
        # Every region and class above the bound, clipped, is a candidate of its class.
        candidates, classes, sigmas = [], [], []
        for row in range(len(proposal)):
            probabilities = predictions.logits[start + row].softmax(dim=0)
            for label in range(NUM_CLASSES):
                if probabilities[label] <= 0.1:
                    continue
                first = 0 if agnostic else 4 * label
                box = proposal.proposal_boxes.tensor[row]
                sides = (box[2:] - box[:2]).repeat(2)
                delta = predictions.deltas[start + row, first : first + 4]
                alpha = predictions.log_variance[start + row, first : first + 4]
                candidates.append(box + delta / 10 * sides)
                sigmas.append((alpha / 2).exp() / 10 * sides)
                classes.append(label)
        clipped = Boxes(torch.stack(candidates))
        clipped.clip(SIZE)
        expected = vote_boxes(
            old.pred_boxes.tensor,
            old.pred_classes,
            clipped.tensor,
            torch.tensor(classes),
            torch.stack(sigmas),
            0.5,
        )
        torch.testing.assert_close(new.pred_boxes.tensor, expected, atol=1e-4, rtol=1e-5)
        assert (new.pred_boxes.tensor - old.pred_boxes.tensor).abs().max() > 0.1
        start += len(proposal)


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
def test_ranking_orders_by_score_times_quality_and_bounds_the_score_alone(
    agnostic: bool, rescaled: bool
) -> None:
    options = {AGNOSTIC: agnostic, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.2}
    options["SSOD.RESCALE_LOCALIZATION_QUALITY"] = rescaled
    # Without suppression every region and class above the bound is a detection.
    options["MODEL.ROI_HEADS.NMS_THRESH_TEST"] = 1.0
    plain = _predictor(tiny_cfg(**options), spread=0.3)
    ranking = _predictor(tiny_cfg(**options, **{RANKING: True}))
    ranking.load_state_dict(plain.state_dict())
    predictions, proposals = plain(_features()), _proposals()
    for old, new in zip(
        plain.inference(predictions, proposals)[0],
        ranking.inference(predictions, proposals)[0],
        strict=True,
    ):
        assert len(old) > 5
        # Twice s_loc, in (0, 1), whatever scale s_loc has elsewhere: a certain box keeps its score.
        products = old.scores * old.localization_quality * (1 if rescaled else 2)
        order = products.argsort(descending=True)
        assert not torch.equal(order, torch.arange(len(order)))
        torch.testing.assert_close(new.scores, products[order])
        torch.testing.assert_close(new.pred_boxes.tensor, old.pred_boxes.tensor[order])
        assert torch.equal(new.pred_classes, old.pred_classes[order])


def test_nms_keeps_the_better_placed_of_two_boxes_when_ranked_by_quality() -> None:
    log_variance = torch.zeros(2, 12)
    log_variance[0] = math.log(2.0)
    # The first scores 0.8 and is unsure, the second 0.7 and is sure: 0.8 * 0.24 < 0.7 * 0.54.
    logits = torch.tensor([[0.8, 0.05, 0.05, 0.1], [0.7, 0.1, 0.1, 0.1]]).log()
    predictions = BoxPredictions(logits, torch.zeros(2, 12), log_variance)
    boxes = Boxes(torch.tensor([[5.0, 5.0, 30.0, 30.0], [6.0, 5.0, 31.0, 30.0]]))
    proposals = [Instances(SIZE, proposal_boxes=boxes)]
    for ranked, first_edge in ((False, 5.0), (True, 6.0)):
        predictor = _predictor(
            tiny_cfg(**{RANKING: ranked, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.5})
        )
        (found,), (rows,) = predictor.inference(predictions, proposals)
        assert rows.tolist() == [int(ranked)]
        assert found.pred_boxes.tensor[0, 0].item() == first_edge


def test_pseudo_labels_are_neither_voted_on_nor_ranked() -> None:
    plain = _predictor(tiny_cfg(), spread=0.3)
    refining = _predictor(tiny_cfg(**{VOTING: True, RANKING: True}))
    refining.load_state_dict(plain.state_dict())
    predictions, proposals = plain(_features()), _proposals()
    ours, theirs = (p.refined(predictions, proposals, 0.1, PLAIN)[0] for p in (refining, plain))
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) > 3
        assert_same(mine, other)


@pytest.mark.parametrize("options", [{VOTING: True}, {RANKING: True}])
def test_refined_inference_ignores_non_finite_regions_and_accepts_none(
    options: dict[str, bool],
) -> None:
    predictor = _predictor(tiny_cfg(**options), spread=0.3)
    (nothing,), _ = predictor.inference(predictor(_features()[:0]), _proposals((0,)))
    assert len(nothing) == 0
    predictions = predictor(_features())
    for part in ("logits", "deltas", "log_variance"):
        value = getattr(predictions, part).detach().clone()
        value[4] = math.nan
        (found,), (rows,) = predictor.inference(
            predictions._replace(**{part: value}), _proposals((REGIONS,))
        )
        assert found.pred_boxes.tensor.isfinite().all(), part
        assert found.scores.isfinite().all()
        if part != "log_variance":
            assert 4 not in rows.tolist()
