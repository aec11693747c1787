"""ISMT-like: what is fused, remembered and forgotten, where boxes lie, and who learns what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances

from dre_ssod.methods import Clock
from dre_ssod.methods.pairs.ismt_like import ISMTLike, fused
from dre_ssod.modeling.rcnn import TwoHeadedRCNN
from dre_ssod.modeling.student_batch import PairBatch
from dre_ssod.teacher import TeacherPass
from tests.engine.steps import SAMPLE_ALL
from tests.factories import SIZE, affine, flip, unlabeled_sample
from tests.methods.every import batch_of, trainer_of
from tests.tiny_dataset import TinyDataset

NAME = "ISMTLike"
HERE, NEAR, FAR = (
    (10.0, 10.0, 30.0, 30.0),
    (12.0, 10.0, 30.0, 30.0),
    (60.0, 20.0, 90.0, 50.0),
)
CLOCK = Clock(2, 2, 6)


def _boxes(*rows: tuple[tuple[float, ...], int, float]) -> Instances:
    boxes = torch.tensor([box for box, _, _ in rows]).reshape(-1, 4)
    found = Instances(SIZE, gt_boxes=Boxes(boxes))
    found.gt_classes = torch.tensor([label for _, label, _ in rows], dtype=torch.int64)
    found.gt_scores = torch.tensor([score for _, _, score in rows])
    return found


def _as_rows(found: Instances) -> list[tuple[tuple[float, ...], int, float]]:
    rows = zip(found.gt_boxes.tensor, found.gt_classes, found.gt_scores, strict=True)
    return [(tuple(box.tolist()), int(label), round(float(score), 5)) for box, label, score in rows]


def test_without_a_memory_what_is_found_goes_through_nms() -> None:
    found = _boxes((NEAR, 0, 0.8), (HERE, 0, 0.9), (HERE, 1, 0.7), (FAR, 0, 0.95))
    assert _as_rows(fused(_boxes(), found, 0.9)) == [
        (FAR, 0, 0.95),
        (HERE, 0, 0.9),
        (HERE, 1, 0.7),
    ]


def test_what_is_found_again_changes_nothing() -> None:
    once = _boxes((FAR, 1, 0.95), (HERE, 0, 0.9))
    again = fused(_boxes((FAR, 1, 0.95), (HERE, 0, 0.9)), once, 0.5)
    assert _as_rows(again) == _as_rows(once)


def test_what_is_not_found_again_is_forgotten_bit_by_bit() -> None:
    before = _boxes((HERE, 0, 0.9), (FAR, 1, 0.8))
    found = fused(before, _boxes((NEAR, 0, 0.4), (FAR, 0, 0.3)), 0.5)
    # The first is confirmed; of the second another class is found there.
    assert _as_rows(found) == [(HERE, 0, 0.9), (FAR, 1, 0.4), (FAR, 0, 0.3)]


def _method(**overrides: Any) -> ISMTLike:
    method = ISMTLike(ISMTLike.Settings(**overrides), 4)
    method._positions = {"unlabeled0.png": 0, "unlabeled1.png": 7}
    return method


def _counts(method: ISMTLike, sample: Any, *heads: Instances) -> Any:
    """Of a pass in which the first and the second head have fused these."""
    first, second = ((TeacherPass([sample], [found], None, {}), []) for found in heads)
    return method.counts((second, first), [sample])


def _step(method: ISMTLike, sample: Any, first: Instances, second: Instances) -> None:
    """What one step leaves behind, that has fused these."""
    method.learn(method.tally([_counts(method, sample, first, second)]))


def test_a_box_is_remembered_in_pixels_of_the_image() -> None:
    method = _method()
    # The image's own box HERE, in a view that is mirrored and 1.3 times as large.
    seen = unlabeled_sample(0, weak=affine(scale=1.3) @ flip())
    x1, y1, x2, y2 = HERE
    there = (1.3 * (SIZE[1] - x2), 1.3 * y1, 1.3 * (SIZE[1] - x1), 1.3 * y2)
    _step(method, seen, _boxes((there, 1, 0.75)), _boxes())
    plain = unlabeled_sample(0)
    found = method.fuse(0, _boxes((HERE, 1, 0.7)), plain)
    torch.testing.assert_close(found.gt_boxes.tensor, torch.tensor([HERE]), rtol=0, atol=1e-4)
    assert found.gt_scores.tolist() == [0.75]
    assert len(method.fuse(1, _boxes(), plain)) == 0
    assert len(method.fuse(0, _boxes(), unlabeled_sample(1))) == 0


def test_the_best_are_remembered_and_those_below_the_bound_are_not() -> None:
    method = _method(kept=2)
    many = _boxes((HERE, 0, 0.9), (HERE, 1, 0.8), (FAR, 0, 0.7), (FAR, 1, 0.2))
    kept = method.fuse(0, many, unlabeled_sample(0))
    assert kept.gt_scores.tolist() == pytest.approx([0.9, 0.8])
    few = _method()
    _step(few, unlabeled_sample(0), few.fuse(0, many, unlabeled_sample(0)), _boxes())
    remembered = few.state_dict()["memory"][0]
    assert remembered["boxes"][:, 5].tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_a_step_notes_all_of_its_passes_and_no_image_of_another_pool() -> None:
    method = _method()
    found = _boxes((HERE, 0, 0.9)), _boxes((FAR, 0, 0.5))
    passes = [_counts(method, unlabeled_sample(number), *found) for number in range(3)]
    method.learn(method.tally(passes))
    first, second = method.state_dict()["memory"]
    assert first["positions"].tolist() == second["positions"].tolist() == [0, 7]
    assert [m["boxes"][1, 5].item() for m in (first, second)] == [pytest.approx(0.9), 0.5]
    assert not method.tally([])


def _with_memories() -> ISMTLike:
    """Of two images: of the first both heads remember something, of the other one of them."""
    method = _method()
    _step(
        method, unlabeled_sample(1), _boxes((HERE, 0, 0.9)), _boxes((FAR, 2, 0.5), (HERE, 1, 0.4))
    )
    _step(method, unlabeled_sample(0), _boxes(), _boxes((NEAR, 1, 0.7)))
    return method


def _assert_same(method: ISMTLike, other: ISMTLike) -> None:
    for head in range(2):
        for number in range(2):
            ours, theirs = (
                m.fuse(head, _boxes(), unlabeled_sample(number)) for m in (method, other)
            )
            assert _as_rows(ours) == _as_rows(theirs)
            assert len(ours) == head + number


def test_its_state_makes_another_one_the_same(tmp_path: Path) -> None:
    method, other = _with_memories(), _method()
    torch.save(method.state_dict(), tmp_path / "state.pth")
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    _assert_same(method, other)
    states = (m.state_dict()["memory"] for m in (other, method))
    torch.testing.assert_close(*states, rtol=0, atol=0)
    # What it learns from there on replaces what it had.
    _step(other, unlabeled_sample(1), _boxes((FAR, 0, 0.6)), _boxes())
    assert _as_rows(other.fuse(0, _boxes(), unlabeled_sample(1))) == [(FAR, 0, 0.54)]


def test_a_state_has_as_many_tensors_whatever_it_remembers() -> None:
    """Checkpoints of many tensors take long to write and to read."""
    few, none = (
        [t for head in method.state_dict()["memory"] for t in head.values()]
        for method in (_with_memories(), _method())
    )
    assert len(few) == len(none) == 6
    other = _method()
    other.load_state_dict(_method().state_dict())
    assert len(other.fuse(0, _boxes(), unlabeled_sample(1))) == 0


def test_states_with_a_tensor_of_each_image_are_still_read() -> None:
    method, other = _with_memories(), _method()
    memory = [dict(memory) for memory in method._memory]
    other.load_state_dict({"memory": memory, "digest": ""})
    _assert_same(method, other)


@pytest.mark.parametrize("position", [2**24 - 2, 2**24 - 1, 2**24 + 1, 3 * 2**24 + 4])
def test_images_of_large_pools_keep_their_own_memories(position: int) -> None:
    method = _method()
    method._positions = {"unlabeled0.png": position, "unlabeled1.png": position + 1}
    for number, box in enumerate((HERE, FAR)):
        totals = method.tally(
            [_counts(method, unlabeled_sample(number), _boxes((box, 0, 0.9)), _boxes())]
        )
        # As processes add them up.
        method.learn({name: total.float() for name, total in totals.items()})
    for number, box in enumerate((HERE, FAR)):
        found = method.fuse(0, _boxes(), unlabeled_sample(number))
        assert [rows[0] for rows in _as_rows(found)] == [box]
    assert set(method._memory[0]) == {position, position + 1}


def test_its_memory_is_of_the_images_that_it_has_seen(caplog: pytest.LogCaptureFixture) -> None:
    """Positions are of one pool: in another they would be other images'."""

    def prepared(method: ISMTLike, *names: str) -> int:
        pools = SimpleNamespace(unlabeled=[{"file_name": name} for name in names])
        method.prepare(pools)  # type: ignore[arg-type]
        return len(method.fuse(0, _boxes(), unlabeled_sample(0)))

    first = _method()
    prepared(first, "a/unlabeled0.png", "unlabeled0.png")
    _step(first, unlabeled_sample(0), _boxes((HERE, 0, 0.9)), _boxes())
    for names, kept in (
        (("elsewhere/unlabeled0.png", "unlabeled0.png"), 1),
        (("unlabeled0.png", "elsewhere/new.png"), 0),
    ):
        caplog.clear()
        other = _method()
        other.load_state_dict(first.state_dict())
        assert prepared(other, *names) == kept
        assert ("forgets what it has seen in 1 of them" in caplog.text) == (not kept)


def test_the_rpn_of_both_heads_is_trained_once(data: TinyDataset, tmp_path: Path) -> None:
    off = {"MODEL.ROI_BOX_HEAD.DROP_BLOCK": 0.0}
    run = trainer_of(NAME, data, tmp_path, **SAMPLE_ALL, **off)
    batch = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS)
    given = run.method.student_batch(run.teacher, batch, CLOCK)
    pairs = zip(run.student.detectors, (given.first, given.second), strict=True)
    each = [head(own) for head, own in pairs]
    both = run.student(given)
    for kind in ("supervised", "unsupervised"):
        for name, loss in getattr(both, kind).items():
            total = sum(getattr(losses, kind)[name] for losses in each)
            share = 0.5 if "rpn" in name else 1.0
            torch.testing.assert_close(loss, share * total)


def test_a_head_learns_from_the_other_heads_labels_alone(data: TinyDataset, tmp_path: Path) -> None:
    off = {"MODEL.ROI_BOX_HEAD.DROP_BLOCK": 0.0}
    run = trainer_of(NAME, data, tmp_path, **SAMPLE_ALL, **off)
    batch = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS)
    (seen_2, second), (seen_1, first) = run.method.find(run.teacher, batch.unlabeled, CLOCK)
    for number, (seen, labels) in enumerate(((seen_1, first), (seen_2, second))):
        head = run.teacher.detectors[number]
        assert seen._teacher.roi_heads is head.roi_heads
        assert sum(map(len, labels)) > 0
        assert all((found.gt_scores >= 0.2).all() for found in labels)
    given = run.method.student_batch(run.teacher, batch, CLOCK)
    assert isinstance(given, PairBatch)
    for of_head, labels in ((given.first, second), (given.second, first)):
        assert of_head.labels is not None
        for ours, theirs in zip(of_head.labels.cls.origin, labels, strict=True):
            assert torch.equal(ours.gt_scores, theirs.gt_scores)
    # Other labels for one head change its losses, and not those of the other.
    learners = run.student.detectors
    other = replace(given.first, labels=given.second.labels)
    pairs = given, replace(given, first=other), replace(given, second=given.first)
    before, of_first, of_second = (
        [head(own).unsupervised for head, own in zip(learners, (p.first, p.second), strict=True)]
        for p in pairs
    )
    for name, value in before[0].items():
        assert not torch.isclose(value, of_first[0][name])
        torch.testing.assert_close(before[1][name], of_first[1][name])
        torch.testing.assert_close(value, of_second[0][name])
        assert not torch.isclose(before[1][name], of_second[1][name])


def test_the_heads_share_all_but_themselves(data: TinyDataset, tmp_path: Path) -> None:
    run = trainer_of(NAME, data, tmp_path)
    for model in (run.student, run.teacher):
        assert isinstance(model, TwoHeadedRCNN)
        assert model.partner.backbone is model.backbone
        assert model.partner.proposal_generator is model.proposal_generator
        assert model.partner.roi_heads is not model.roi_heads
    names = [name for name, _ in run.student.named_parameters()]
    assert any(name.startswith("partner.roi_heads") for name in names)
    assert not any(name.startswith("partner.backbone") for name in names)
