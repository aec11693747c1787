"""Options of DRE beside the paper: sharper and relative weights, labels by rank, voting."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.structures import Instances
from torch.nn import functional as F

from dre_ssod.methods import Clock
from dre_ssod.methods.dre import DRE, emphasized
from dre_ssod.methods.parts.score_ranks import BINS
from dre_ssod.teacher import observe
from tests.factories import NUM_CLASSES, labels_alone, tiny_cfg, tiny_model, unlabeled_sample
from tests.methods.test_dre import BACKGROUND, CLASSES, FOREGROUND, Case


@pytest.mark.parametrize(("rescale", "best"), [(False, 0.5), (True, 1.0)])
def test_a_power_of_the_quality_weighs_eq_11_and_12_more_sharply(
    rescale: bool, best: float
) -> None:
    options = {"SSOD.RESCALE_LOCALIZATION_QUALITY": rescale}
    plain, case = Case(**options), Case(**options, **{"SSOD.QUALITY_POWER": 3.0})
    ler = [best * (s / best) ** 3 for s in case.quality.tolist()]
    quality = case.scores._quality.tolist()
    foreground, background = case.scores.foreground.tolist(), case.scores.background.tolist()
    total = {"fg": 0.0, "bg": 0.0, "box": 0.0}
    cross_entropy = F.cross_entropy(case.logits, CLASSES, reduction="none").tolist()
    box = F.smooth_l1_loss(case.deltas, case.targets, beta=1.0, reduction="none").sum(1).tolist()
    for row, is_foreground in enumerate(FOREGROUND.tolist()):
        if is_foreground:
            sharp = best * (quality[row] / best) ** 3
            total["fg"] += foreground[row] * sharp * cross_entropy[row]
            total["box"] += ler[row] * box[row]
        else:
            total["bg"] += background[row] * cross_entropy[row]
    assert case.box.item() == pytest.approx(total["box"] / 10, rel=1e-4)
    assert case.cls.item() == pytest.approx(total["fg"] / 4 + total["bg"] / 6, rel=1e-4)
    assert case.box.item() != pytest.approx(plain.box.item(), rel=0.05)


def test_a_certain_box_keeps_its_weight_and_the_power_1_changes_nothing() -> None:
    quality = torch.tensor([0.38, 0.48, 0.5])
    torch.testing.assert_close(
        emphasized(quality, 4.0, 0.5), torch.tensor([0.1668, 0.4247, 0.5]), atol=1e-4, rtol=0.0
    )
    assert torch.equal(emphasized(quality, 1.0, 0.5), quality)


def test_relative_weights_have_a_mean_of_1_over_the_foreground() -> None:
    """Eq. 11 and 14 with s_i / (1 / N_fg * sum_j s_j) of foreground regions, after the power."""
    case = Case(**{"SSOD.RELATIVE_WEIGHTS": True, "SSOD.QUALITY_POWER": 2.0})
    ler = [0.5 * (s / 0.5) ** 2 for s in case.quality.tolist()]
    quality, probability = case.scores._quality.tolist(), case.scores.foreground.tolist()
    prc = [p * 0.5 * (s / 0.5) ** 2 for p, s in zip(probability, quality, strict=True)]
    rows = FOREGROUND.nonzero()[:, 0].tolist()
    ler_mean, prc_mean = (sum(weights[row] for row in rows) / 4 for weights in (ler, prc))
    box = F.smooth_l1_loss(case.deltas, case.targets, beta=1.0, reduction="none").sum(1).tolist()
    entropy = F.cross_entropy(case.logits, CLASSES, reduction="none").tolist()
    expected = sum(ler[row] / ler_mean * box[row] for row in rows) / 10
    assert case.box.item() == pytest.approx(expected, rel=1e-4)
    foreground = sum(prc[row] / prc_mean * entropy[row] for row in rows) / 4
    background = sum(
        case.scores.background[row].item() * entropy[row] for row in range(10) if row not in rows
    )
    assert case.cls.item() == pytest.approx(foreground + background / 6, rel=1e-4)


@pytest.mark.parametrize("count", [0, 3])
def test_relative_weights_without_foreground_are_finite(count: int) -> None:
    case = Case(torch.full((count,), BACKGROUND), **{"SSOD.RELATIVE_WEIGHTS": True})
    assert case.box.item() == 0.0
    assert case.cls.isfinite()


def test_thresholds_by_rank_stand_in_for_tau() -> None:
    """A class gets as many labels as expected; until its rank is known, tau bounds it."""
    model = tiny_model(tiny_cfg(), spread=0.5).eval()
    settings = DRE.Settings(score_threshold=0.99, label_share=1.0, min_score=0.1)
    method, sample = DRE(settings), unlabeled_sample()
    records = [{"annotations": [{"category_id": c, "bbox": [0, 0, 1, 1], "bbox_mode": 0}] * n}
               for c, n in ((0, 2), (1, 1))]  # fmt: skip
    method.study(labels_alone(records))

    def step() -> Instances:
        labels = method.label(model, [sample], Clock(0, 0, 9))
        method.learn(method.tally([labels.counts]))
        return labels.cls.origin[0]

    seen = observe(model, [sample], 0.1).detections[0]
    assert len(step()) == 0
    # Two images, as the steps learn of this one twice: ranks 2, 1 and 1 of every score twice.
    step()
    found = step()
    for label, rank in enumerate((2, 1, 1)):
        scores = seen.gt_scores[seen.gt_classes == label]
        twice = scores.repeat(2).sort(descending=True).values.tolist()
        # The bound is rounded down to 1 / BINS.
        bound = math.floor(twice[rank - 1] * BINS) / BINS if twice else 0.0
        kept = found.gt_scores[found.gt_classes == label]
        assert sorted(kept.tolist()) == sorted(scores[scores >= bound].tolist())
    assert 0 < len(found) < len(seen)


def test_thresholds_by_rank_resume_and_are_nothing_when_off() -> None:
    off = DRE(DRE.Settings())
    off.study(labels_alone([{"annotations": []}]))
    assert off.state_dict() == {}
    assert off._ranks.counts([]) == {}
    ranks = torch.zeros(NUM_CLASSES, BINS)
    ranks[:, 500] = 4.0
    methods = [DRE(DRE.Settings(label_share=0.5)) for _ in range(2)]
    for method in methods:
        method.study(labels_alone([{"annotations": []}]))
    methods[0].learn({"scores": ranks, "images": torch.tensor([8.0])})
    methods[1].load_state_dict(methods[0].state_dict())
    for method in methods:
        assert method._ranks.at(0.5, NUM_CLASSES).tolist() == [500 / BINS] * NUM_CLASSES


@pytest.mark.parametrize("ranked", [False, True])
def test_pseudo_labels_are_voted_on_and_ranked_as_detections_are_at_test_time(ranked: bool) -> None:
    """Of a model whose TEST keys say what SSOD.LABELS says, and whose bound is tau."""
    tau, sigma_t = 0.2, 0.5
    voting = {"TEST.VARIANCE_VOTING.ENABLED": True, "TEST.VARIANCE_VOTING.SIGMA_T": sigma_t}
    bound = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": tau}
    keys = {**voting, **bound, "TEST.RANK_BY_QUALITY": ranked}
    model = tiny_model(tiny_cfg(**keys), spread=0.5).eval()
    method = DRE(DRE.Settings(score_threshold=tau, label_ranking=ranked, label_voting=sigma_t))
    sample = unlabeled_sample()
    [labels] = method.label(model, [sample], Clock(0, 0, 1)).cls.origin
    with torch.no_grad():
        expected = model([{"image": sample.weak.image}])[0]["instances"]
    torch.testing.assert_close(labels.gt_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(labels.gt_scores, expected.scores)
    [plain] = (
        DRE(DRE.Settings(score_threshold=tau)).label(model, [sample], Clock(0, 0, 1)).cls.origin
    )
    assert len(plain) > 3
    assert plain.gt_boxes.tensor.shape != labels.gt_boxes.tensor.shape or not torch.allclose(
        plain.gt_boxes.tensor, labels.gt_boxes.tensor, atol=0.1
    )
