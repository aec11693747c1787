"""Co-rectify: averages by hand, whose verdict is whose, and views of their own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dre_ssod.methods import Clock
from dre_ssod.methods.pairs.instant_teaching_star import Candidates, labels_of, rectified
from dre_ssod.modeling.student_batch import PairBatch
from tests.factories import NUM_CLASSES, SIZE
from tests.methods.every import batch_of, swapped, trainer_of
from tests.tiny_dataset import TinyDataset

BOX = (10.0, 10.0, 30.0, 30.0)
NAME = "InstantTeachingStar"


def _judge(probabilities: tuple[float, ...], box: tuple[float, ...]) -> Any:
    """A detector that says the same of every box."""

    def rescore(boxes: list[Boxes]) -> Any:
        count = sum(map(len, boxes))

        def refined(classes: Tensor) -> Tensor:
            assert (classes == int(torch.tensor(probabilities[:-1]).argmax())).all()
            return torch.tensor([box]).repeat(count, 1)

        return SimpleNamespace(
            probabilities=torch.tensor([probabilities]).repeat(count, 1), refined=refined
        )

    return SimpleNamespace(rescore=rescore)


def _detection(score: float, label: int = 0) -> Candidates:
    found = Instances(SIZE, gt_boxes=Boxes(torch.tensor([BOX])))
    found.gt_classes, found.gt_scores = torch.tensor([label]), torch.tensor([score])
    return Candidates.of_detections(found, NUM_CLASSES)


@pytest.mark.parametrize(("q", "kept"), [(0.85, True), (0.84, False)])
def test_a_raw_candidate_enters_with_the_mean_of_its_score_and_the_judges(
    q: float, kept: bool
) -> None:
    judge = _judge((q, 0.0, 0.0, 1.0 - q), BOX)
    (found,) = rectified(judge, [_detection(0.95)], final=True)
    assert found.best()[0].item() == pytest.approx((0.95 + q) / 2)
    assert len(labels_of([found], 0.9 - 1e-6, 0.5, 100)[0]) == int(kept)


def test_a_candidate_that_the_judge_has_averaged_has_three_quarters_of_its_opinion() -> None:
    judge = _judge((0.6, 0.1, 0.0, 0.3), BOX)
    once = rectified(judge, [_detection(0.8)])
    (twice,) = rectified(judge, once, final=True)
    assert twice.best()[0].item() == pytest.approx((0.8 + 3 * 0.6) / 4)


def test_boxes_are_means_weighed_by_scores() -> None:
    other = (20.0, 10.0, 50.0, 40.0)
    judge = _judge((0.2, 0.5, 0.0, 0.3), other)
    (once,) = rectified(judge, [_detection(0.8)])
    before = torch.tensor(BOX)
    expected = (0.8 * before + 0.5 * torch.tensor(other)) / 1.3
    torch.testing.assert_close(once.boxes[0], expected)
    torch.testing.assert_close(once.probabilities[0], torch.tensor([0.5, 0.25, 0.0, 0.15]))
    # At the end the judge's box weighs the best class of both together: here 0.35 of class 0.
    (final,) = rectified(judge, [once], final=True)
    torch.testing.assert_close(final.probabilities[0, 1], torch.tensor(0.375))
    judged = (0.5 * once.boxes[0] + 0.375 * torch.tensor(other)) / 0.875
    torch.testing.assert_close(final.boxes[0], judged)


def test_what_a_judge_says_is_clipped_to_the_view() -> None:
    judge = _judge((0.8, 0.0, 0.0, 0.2), (-40.0, 10.0, 30.0, 30.0))
    (found,) = rectified(judge, [_detection(0.8)])
    assert found.boxes[0, 0].item() == pytest.approx(5.0)


def test_detectors_that_say_the_same_change_nothing() -> None:
    judge = _judge((0.9, 0.05, 0.0, 0.05), BOX)
    raw = [_detection(0.9)]
    (final,) = rectified(judge, rectified(judge, raw), final=True)
    torch.testing.assert_close(final.boxes[0], torch.tensor(BOX))
    assert final.best()[0].item() == pytest.approx(0.9)


def test_labels_are_those_from_tau_on_that_nms_leaves_within_a_class() -> None:
    boxes = torch.tensor([BOX, BOX, BOX, (60.0, 10.0, 80.0, 30.0)])
    probabilities = torch.tensor(
        [[0.95, 0.0, 0.0, 0.0], [0.92, 0.0, 0.0, 0.0], [0.0, 0.93, 0.0, 0.0], [0.89, 0.0, 0.0, 0.0]]
    )
    first, none = (
        Candidates(SIZE, boxes, probabilities),
        Candidates(SIZE, boxes[:0], probabilities[:0]),
    )
    # The same boxes in another view are other objects.
    second = Candidates((80, 90), boxes[1:], probabilities[1:])
    one, nothing, two = labels_of([first, none, second], 0.9, 0.5, 100)
    assert one.gt_classes.tolist() == two.gt_classes.flip(0).tolist() == [0, 1]
    assert one.gt_scores.tolist() == pytest.approx([0.95, 0.93])
    assert two.gt_scores.tolist() == pytest.approx([0.93, 0.92])
    assert torch.equal(two.gt_boxes.tensor, boxes[:2])
    assert (len(nothing), two.image_size) == (0, (80, 90))
    assert [len(found) for found in labels_of([first, second], 0.9, 0.5, 1)] == [1, 1]


def test_detectors_that_change_places_change_their_labels(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path)
    samples = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS).unlabeled
    clock = Clock(2, 2, 6)
    (_, a), (_, b) = run.method.find(run.teacher, samples, clock)
    run.teacher.load_state_dict(swapped(run.teacher.state_dict()))
    (_, c), (_, d) = run.method.find(run.teacher, samples, clock)
    assert sum(map(len, a)) > 0
    scores = [torch.cat([found.gt_scores for found in labels]).tolist() for labels in (a, b)]
    assert scores[0] != scores[1]
    for before, after in ((a, d), (b, c)):
        for one, two in zip(before, after, strict=True):
            rows = two.gt_boxes.tensor
            torch.testing.assert_close(one.gt_boxes.tensor, rows, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(one.gt_scores, two.gt_scores)


def test_each_detector_has_views_labels_and_mixtures_of_its_own(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path, **{"SSOD.INSTANT_TEACHING.MIX": 1.0})
    batch = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS)
    given = run.method.student_batch(run.teacher, batch, Clock(2, 2, 6))
    assert isinstance(given, PairBatch)
    first, second = given.first, given.second
    assert len(first.labeled) == len(second.labeled) == len(batch.labeled)
    for one, two in zip(first.labeled, second.labeled, strict=True):
        assert one["file_name"] == two["file_name"]
    seen = ([*of_one.labeled, *of_one.strong] for of_one in (first, second))
    assert any(
        one["image"].shape != two["image"].shape or not torch.equal(one["image"], two["image"])
        for one, two in zip(*seen, strict=True)
    )
    assert given.labels is first.labels
    assert first.mixer is not second.mixer
    sizes = [[found.image_size for found in b.labels.cls.instances()] for b in (first, second)]
    assert sizes == [
        [sample.strong.size for sample in batch.unlabeled],
        [sample.for_second().strong.size for sample in batch.unlabeled],
    ]
