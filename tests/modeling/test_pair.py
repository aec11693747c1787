"""Two detectors in one module: whose weights, losses, detections and starts are whose."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dre_ssod.checkpoints.weights import start_all
from dre_ssod.engine.ema import ModelEMA
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.methods.mean_teacher import MeanTeacher
from dre_ssod.modeling.rcnn import PairedRCNN, SemiSupervisedRCNN
from dre_ssod.modeling.student_batch import PairBatch, StudentBatch
from dre_ssod.structures import StudentLosses
from tests.engine.steps import SAMPLE_ALL
from tests.factories import FEWER_LAYERS, labeled_image, tiny_cfg, tiny_model
from tests.tiny_dataset import tiny_run, write_tiny_dataset

PAIR = {"MODEL.META_ARCHITECTURE": "PairedRCNN"}


@pytest.fixture(scope="module")
def pair() -> PairedRCNN:
    model = tiny_model(tiny_cfg(**PAIR, **SAMPLE_ALL), spread=0.5)
    assert isinstance(model, PairedRCNN)
    return model


def _batch(seed: int) -> StudentBatch:
    return StudentBatch([labeled_image(seed)], method=MeanTeacher(MeanTeacher.Settings()))


def test_the_first_has_the_plain_names(pair: PairedRCNN) -> None:
    one = tiny_model(tiny_cfg(**SAMPLE_ALL)).state_dict().keys()
    assert pair.state_dict().keys() == {*one, *(f"partner.{name}" for name in one)}


def test_each_by_itself_has_the_tensors_of_the_pair(pair: PairedRCNN) -> None:
    found = pair.state_dict()
    for detector, prefix in zip(pair.detectors, ("", "partner."), strict=True):
        assert type(detector) is SemiSupervisedRCNN
        for name, tensor in detector.state_dict().items():
            assert tensor.data_ptr() == found[prefix + name].data_ptr()
    assert pair.partner is pair.detectors[1]
    single = tiny_model(tiny_cfg())
    assert single.detectors == (single,)


def test_an_average_follows_its_own_student_alone(pair: PairedRCNN) -> None:
    teacher, student = copy.deepcopy(pair), copy.deepcopy(pair)
    for parameter in student.partner.parameters():
        parameter.data += 1.0
    ModelEMA(teacher, student).update(0.5)
    for name, parameter in teacher.named_parameters():
        moved = 0.5 if name.startswith("partner.") else 0.0
        torch.testing.assert_close(parameter, pair.get_parameter(name) + moved)


def test_losses_are_the_sum_of_both(pair: PairedRCNN) -> None:
    batches = _batch(0), _batch(1)
    parts = [d.student_losses(b) for d, b in zip(pair.detectors, batches, strict=True)]
    found: StudentLosses = pair(PairBatch(*batches))
    for name, value in found.supervised.items():
        torch.testing.assert_close(value, sum(part.supervised[name] for part in parts))
    sigma, own = found.figures["sigma"], [part.figures["sigma"] for part in parts]
    torch.testing.assert_close(sigma.total, own[0].total + own[1].total)
    torch.testing.assert_close(sigma.count, own[0].count + own[1].count)


def test_a_batch_for_one_is_for_both(pair: PairedRCNN) -> None:
    once, twice = pair(_batch(0)).supervised, pair(PairBatch(_batch(0), _batch(0))).supervised
    for name, value in once.items():
        torch.testing.assert_close(value, twice[name])


def test_detections_are_those_of_the_first(pair: PairedRCNN) -> None:
    first = pair.detectors[0]
    image = [{"image": labeled_image(0)["image"]}]
    try:
        ours, theirs = (model.eval()(image)[0]["instances"] for model in (pair, first))
    finally:
        pair.train()
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.scores, theirs.scores)


def test_two_batches_are_too_much_for_one() -> None:
    with pytest.raises(AssertionError, match="pair of detectors"):
        tiny_model(tiny_cfg())(PairBatch(_batch(0), _batch(0)))


def test_a_pair_that_starts_as_one_detector_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Two that are the same can tell each other nothing."""
    said = "gives both detectors of the pair all of their weights"
    pair = tiny_model(tiny_cfg(**PAIR))
    start_all(pair, pair.detectors, "")
    assert said not in caplog.text
    for detector in pair.detectors:
        detector.load_state_dict(tiny_model(tiny_cfg(), seed=7).state_dict())
    start_all(pair, pair.detectors, "")
    assert said in caplog.text


def test_both_start_from_a_file_of_one_and_apart_where_it_says_nothing(tmp_path: Path) -> None:
    backbone = tiny_model(tiny_cfg(**FEWER_LAYERS), seed=7).backbone.state_dict()
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    torch.save({"model": weights}, tmp_path / "backbone.pth")
    overrides: dict[str, Any] = {
        **PAIR,
        "SSOD.METHOD": "CSTLike",
        "MODEL.WEIGHTS": str(tmp_path / "backbone.pth"),
    }
    data = write_tiny_dataset(tmp_path / "tiny")
    cfg = tiny_run(data, tmp_path / "run", **overrides, **{"MODEL.ROI_HEADS.NUM_CLASSES": 3})
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=False)
    for detector in trainer.student.detectors:
        for name, tensor in detector.backbone.state_dict().items():
            assert torch.equal(tensor, backbone[name]), name
    first, second = (d.roi_heads.box_head.fc1.weight for d in trainer.student.detectors)
    assert not torch.equal(first, second)


def test_a_pair_starts_from_a_pair_as_it_is(tmp_path: Path) -> None:
    overrides: dict[str, Any] = {
        **PAIR,
        "SSOD.METHOD": "CSTLike",
        "MODEL.WEIGHTS": str(tmp_path / "pair.pth"),
        "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    }
    data = write_tiny_dataset(tmp_path / "tiny")
    trainer = SSODTrainer(tiny_run(data, tmp_path / "run", **overrides))
    saved = {name: tensor + 1.0 for name, tensor in trainer.student.state_dict().items()}
    torch.save({"model": saved}, tmp_path / "pair.pth")
    trainer.resume_or_load(resume=False)
    for model in (trainer.teacher, trainer.student):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, saved[name]), name
