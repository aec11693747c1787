"""The Gaussian box head: where its variance branch is, and what its detections carry."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from dre_ssod.modeling.box_predictor import BoxPredictions
from dre_ssod.modeling.refinement import PLAIN, RefiningFastRCNNOutputLayers
from dre_ssod.modeling.regions import RegionScores
from tests.factories import NUM_CLASSES, SIZE, assert_same, tiny_cfg

CHANNELS = 32
REGIONS = 20
LOSS_TYPE = "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"
AGNOSTIC = "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"
TRANSFORM = "MODEL.ROI_BOX_HEAD.BOX_TRANSFORM"


def _predictor(cfg: CfgNode, spread: float = 0.0) -> RefiningFastRCNNOutputLayers:
    predictor = RefiningFastRCNNOutputLayers(cfg, ShapeSpec(channels=CHANNELS))
    if spread:
        for layer in predictor.children():
            nn.init.normal_(layer.weight, std=spread)
    return predictor


def _features() -> Tensor:
    return torch.randn(REGIONS, CHANNELS, generator=torch.Generator().manual_seed(1))


def _proposals(counts: tuple[int, ...] = (12, 8)) -> list[Instances]:
    """Boxes of 16 x 8 to 39 x 31 pixels in the upper left of each image."""
    generator = torch.Generator().manual_seed(2)
    proposals = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 20
        side = torch.rand(count, 2, generator=generator) * 23 + torch.tensor([16.0, 8.0])
        proposals.append(
            Instances(SIZE, proposal_boxes=Boxes(torch.cat([corner, corner + side], 1)))
        )
    return proposals


def test_the_variance_branch_exists_for_the_kl_loss_only() -> None:
    gaussian = _predictor(tiny_cfg())
    assert gaussian(_features()).log_variance is not None
    plain = _predictor(tiny_cfg(**{LOSS_TYPE: "smooth_l1"}))
    assert not hasattr(plain, "log_variance")
    assert plain(_features()).log_variance is None


@pytest.mark.parametrize(("agnostic", "codings"), [(False, NUM_CLASSES), (True, 1)])
def test_the_variance_branch_is_class_specific_where_the_offsets_are(
    agnostic: bool, codings: int
) -> None:
    predictor = _predictor(tiny_cfg(**{AGNOSTIC: agnostic}))
    predictions = predictor(_features())
    assert predictions.logits.shape == (REGIONS, NUM_CLASSES + 1)
    assert predictions.deltas.shape == (REGIONS, 4 * codings)
    assert predictions.log_variance is not None
    assert predictions.log_variance.shape == (REGIONS, 4 * codings)


def _scores(predictor: RefiningFastRCNNOutputLayers, predictions: BoxPredictions) -> RegionScores:
    return RegionScores(torch.zeros(len(predictions.logits), 4), predictor, predictions)


def test_a_new_variance_branch_predicts_unit_variance() -> None:
    layer = _predictor(tiny_cfg()).log_variance
    assert layer.bias.abs().max() == 0.0
    assert layer.weight.std().item() == pytest.approx(1e-4, rel=0.2)
    predictor = _predictor(tiny_cfg())
    quality = _scores(predictor, predictor(_features())).quality(torch.zeros(REGIONS).long())
    assert quality is not None
    torch.testing.assert_close(quality, torch.full((REGIONS,), 0.26894), atol=1e-3, rtol=0.0)


def test_alpha_is_clamped_to_its_range() -> None:
    predictor = _predictor(tiny_cfg(**{"SSOD.LOG_VARIANCE_RANGE": (-2.0, 3.0)}), spread=10.0)
    alpha = predictor(_features()).log_variance
    assert alpha is not None
    assert alpha.min() == -2.0
    assert alpha.max() == 3.0


def test_alpha_stays_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        predictions = _predictor(tiny_cfg())(_features())
    assert predictions.logits.dtype == torch.bfloat16
    assert predictions.log_variance is not None
    assert predictions.log_variance.dtype == torch.float32


def test_of_class_picks_the_coding_of_each_regions_class() -> None:
    predictor = _predictor(tiny_cfg())
    per_class = torch.arange(24.0).reshape(2, 12)
    picked = predictor.of_class(per_class, torch.tensor([2, 0]))
    assert picked.tolist() == [[8.0, 9.0, 10.0, 11.0], [12.0, 13.0, 14.0, 15.0]]
    agnostic = torch.arange(8.0).reshape(2, 4)
    assert torch.equal(predictor.of_class(agnostic, torch.tensor([2, 0])), agnostic)


def test_rows_selects_regions() -> None:
    predictions = _predictor(tiny_cfg(), spread=1.0)(_features())
    rows = predictions.rows(slice(3, 7))
    for part, whole in zip(rows, predictions, strict=True):
        assert torch.equal(part, whole[3:7])
    assert (
        BoxPredictions(predictions.logits, predictions.deltas, None).rows(slice(0, 2)).log_variance
        is None
    )


@pytest.mark.parametrize("agnostic", [False, True])
def test_detections_carry_the_uncertainty_of_their_own_region_and_class(agnostic: bool) -> None:
    predictor = _predictor(tiny_cfg(**{AGNOSTIC: agnostic}), spread=0.3)
    predictions = predictor(_features())
    proposals = _proposals()
    detections, kept = predictor.refined(predictions, proposals, 0.05, PLAIN)
    assert predictions.log_variance is not None

    start = 0
    for detection, rows, proposal in zip(detections, kept, proposals, strict=True):
        assert len(detection) > 3
        assert len(detection.pred_classes.unique()) > 1
        for number, row in enumerate(rows.tolist()):
            region, label = start + row, int(detection.pred_classes[number])
            probabilities = predictions.logits[region].softmax(dim=0)
            assert detection.scores[number].item() == pytest.approx(probabilities[label].item())
            first = 0 if agnostic else 4 * label
            alpha = predictions.log_variance[region, first : first + 4].tolist()
            x1, y1, x2, y2 = proposal.proposal_boxes.tensor[row].tolist()
            sigma = [
                math.exp(a / 2) * side / 10.0
                for a, side in zip(alpha, [x2 - x1, y2 - y1] * 2, strict=True)
            ]
            mean = sum(map(math.exp, alpha)) / 4
            assert detection.pred_boxes_sigma[number].tolist() == pytest.approx(sigma, rel=1e-4)
            assert detection.localization_quality[number].item() == pytest.approx(
                1 / (1 + math.exp(mean)), rel=1e-4
            )
        start += len(proposal)


@pytest.mark.parametrize("part", ["logits", "deltas"])
def test_a_non_finite_region_does_not_shift_the_uncertainty_of_others(part: str) -> None:
    predictor = _predictor(tiny_cfg(), spread=0.3)
    predictions = predictor(_features())
    proposals = _proposals((REGIONS,))
    bad = 4
    broken = predictions._replace(**{part: getattr(predictions, part).detach().clone()})
    getattr(broken, part)[bad, 0] = math.nan
    good = torch.arange(REGIONS) != bad
    without = BoxPredictions(*(value[good] for value in predictions if value is not None))

    (ours,), (rows,) = predictor.refined(broken, proposals, 0.05, PLAIN)
    (expected,), (fewer_rows,) = predictor.refined(without, [proposals[0][good]], 0.05, PLAIN)
    assert rows.max() > bad
    assert torch.equal(rows, good.nonzero().squeeze(1)[fewer_rows])
    assert_same(ours, expected)


@pytest.mark.parametrize("agnostic", [False, True])
def test_without_variance_it_detects_as_detectron2(agnostic: bool) -> None:
    cfg = tiny_cfg(**{LOSS_TYPE: "smooth_l1", TRANSFORM: "center_size", AGNOSTIC: agnostic})
    ours = _predictor(cfg, spread=0.3)
    theirs = FastRCNNOutputLayers(cfg, ShapeSpec(channels=CHANNELS))
    theirs.load_state_dict(ours.state_dict())
    proposals = _proposals()
    detections, kept = ours.inference(ours(_features()), proposals)
    expected, expected_kept = theirs.inference(theirs(_features()), proposals)
    for mine, other in zip(detections, expected, strict=True):
        assert len(mine) > 3
        assert_same(mine, other)
    assert all(torch.equal(a, b) for a, b in zip(kept, expected_kept, strict=True))


def test_no_regions_detect_nothing() -> None:
    predictor = _predictor(tiny_cfg())
    nothing = predictor(_features()[:0])
    assert predictor.refined(nothing, [], 0.0, PLAIN) == ([], [])
    (detection,), _ = predictor.refined(nothing, _proposals((0,)), 0.0, PLAIN)
    assert detection.pred_boxes_sigma.shape == (0, 4)
    assert detection.localization_quality.shape == (0,)


def test_a_quality_belongs_to_the_class_that_is_asked_for() -> None:
    predictor = _predictor(tiny_cfg())
    log_variance = torch.zeros(2, 12)
    log_variance[0, 8:] = math.log(3.0)
    scores = _scores(
        predictor,
        BoxPredictions(
            # Odds 1 : 2 : 5 : 2 and, where background wins, 3 : 1 : 1 : 5.
            torch.tensor([[1.0, 2.0, 5.0, 2.0], [3.0, 1.0, 1.0, 5.0]]).log(),
            torch.zeros(2, 12),
            log_variance,
        ),
    )
    torch.testing.assert_close(
        scores.probabilities, torch.tensor([[0.1, 0.2, 0.5, 0.2], [0.3, 0.1, 0.1, 0.5]])
    )
    # 1 - sigmoid(3) for class 2 of the first region, 1 - sigmoid(1) for class 0 of the second.
    quality = scores.quality(torch.tensor([2, 0]))
    assert quality is not None
    torch.testing.assert_close(quality, torch.tensor([0.0474259, 0.2689414]))


def test_rescaled_quality_reaches_scores_and_detections() -> None:
    plain = _predictor(tiny_cfg(), spread=0.3)
    rescaled = _predictor(tiny_cfg(**{"SSOD.RESCALE_LOCALIZATION_QUALITY": True}))
    rescaled.load_state_dict(plain.state_dict())
    predictions, proposals = plain(_features()), _proposals()
    classes = torch.zeros(REGIONS).long()
    one, two = (_scores(p, predictions).quality(classes) for p in (plain, rescaled))
    assert one is not None
    assert two is not None
    torch.testing.assert_close(two, 2 * one)
    for before, after in zip(
        plain.inference(predictions, proposals)[0],
        rescaled.inference(predictions, proposals)[0],
        strict=True,
    ):
        torch.testing.assert_close(after.localization_quality, 2 * before.localization_quality)


def test_without_variance_there_is_no_quality_to_score() -> None:
    plain = _predictor(tiny_cfg(**{LOSS_TYPE: "smooth_l1"}))
    assert _scores(plain, plain(_features())).quality(torch.zeros(REGIONS).long()) is None


@pytest.mark.parametrize("agnostic", [False, True])
def test_the_scale_of_sigma_is_that_of_what_is_said_and_not_of_what_is_trained(
    agnostic: bool,
) -> None:
    options = {AGNOSTIC: agnostic}
    plain = _predictor(tiny_cfg(**options), spread=0.3)
    scaled = _predictor(tiny_cfg(**options, **{"MODEL.ROI_BOX_HEAD.SIGMA_SCALE": 1.5}))
    scaled.load_state_dict(plain.state_dict())
    trained, said = scaled(_features()), scaled.eval()(_features())
    assert torch.equal(trained.log_variance, plain(_features()).log_variance)
    assert torch.equal(trained.deltas, said.deltas)
    torch.testing.assert_close(said.log_variance.exp(), 1.5**2 * trained.log_variance.exp())
    [before], [after] = (
        predictor.eval().inference(predictor.eval()(_features()), _proposals((REGIONS,)))[0]
        for predictor in (plain, scaled)
    )
    torch.testing.assert_close(after.pred_boxes_sigma, 1.5 * before.pred_boxes_sigma)
    assert (after.localization_quality < before.localization_quality).all()
