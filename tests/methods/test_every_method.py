"""What every registered method must be able to do, on data and models of seconds."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from detectron2.utils.events import EventStorage

from dre_ssod.data.sources.catalog import UNLABELED_KEYS
from dre_ssod.engine.hooks.panels import PanelHook
from dre_ssod.engine.stages import start
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.errors import ConfigError
from dre_ssod.inspection.panels import draw_inspection
from dre_ssod.methods import METHODS, Clock, build_method
from dre_ssod.modeling.student_batch import PairBatch
from dre_ssod.structures import TrainingBatch
from dre_ssod.teacher import TeacherPass
from tests.engine.resume_harness import differences, flattened
from tests.factories import SIZE
from tests.methods.every import (
    EXPECTED,
    batch_of,
    config_of,
    gradients_of,
    losses_of,
    out_of_sight,
    trainer_of,
    without_boxes,
)
from tests.tiny_dataset import TinyDataset, write_tiny_dataset

NAMES = sorted(EXPECTED)
SEMI_SUPERVISED = [name for name in NAMES if METHODS.get(name).uses_unlabeled]


def test_every_registered_method_has_a_row() -> None:
    assert {name for name, _ in METHODS} == EXPECTED.keys()


# One forward pass


@pytest.fixture(scope="module", params=NAMES)
def trainer(
    request: pytest.FixtureRequest, data: TinyDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, SSODTrainer]:
    """A method and a trainer past the burn-in, with models that disagree."""
    folder = tmp_path_factory.mktemp(request.param)
    method = METHODS.get(request.param)
    # All anchors, so that those of no level are left out by chance.
    keys: dict[str, Any] = {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": 1024}
    keys |= {"SOLVER.ON_NONFINITE": "skip", "SSOD.PANEL_PERIOD": 1}
    if method.uses_unlabeled and method.uses_teacher:
        keys |= {"TEST.PSEUDO_LABEL_SET": data.labeled, "TEST.PSEUDO_LABEL_IMAGES": 1}
    return request.param, trainer_of(request.param, data, folder, **keys)


def test_gradient_goes_where_it_should(trainer: tuple[str, SSODTrainer]) -> None:
    name, run = trainer
    expected = EXPECTED[name]
    losses = losses_of(run, batch_of(run, run.cfg.SSOD.BURN_IN_ITERS))
    assert losses.unsupervised.keys() == expected.terms
    assert all(math.isfinite(value.item()) for value in losses.unsupervised.values())
    assert all(value >= 0.0 for value in losses.unsupervised.values())
    supervised = gradients_of(run, losses.supervised)
    assert all(gradient.any() for key, gradient in supervised.items() if key.endswith("weight"))
    if expected.terms:
        taught = gradients_of(run, losses.unsupervised)
        for key, gradient in taught.items():
            if any(part in key for part in expected.untrained):
                assert not gradient.any(), key
            else:
                assert gradient.any() or key.endswith("bias"), key
    assert all(p.grad is None and not p.requires_grad for p in run.teacher.parameters())


def test_the_teacher_is_never_trained(trainer: tuple[str, SSODTrainer]) -> None:
    _, run = trainer
    before = {key: value.clone() for key, value in run.teacher.state_dict().items()}
    losses = losses_of(run, batch_of(run, run.cfg.SSOD.BURN_IN_ITERS))
    losses.total(run._trainer.weight).backward()
    assert not run.teacher.training
    for key, value in run.teacher.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_only_a_method_that_asks_the_teacher_keeps_its_feature_maps(
    trainer: tuple[str, SSODTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = trainer
    method, iteration, asked = run.method, run.cfg.SSOD.BURN_IN_ITERS, []
    score = TeacherPass.score
    monkeypatch.setattr(
        TeacherPass, "score", lambda seen, boxes: asked.append(boxes) or score(seen, boxes)
    )
    batch = batch_of(run, iteration)
    losses_of(run, batch)
    assert bool(asked) == method.asks_teacher
    found = method.student_batch(run.teacher, batch, Clock(iteration, iteration, 6))
    for one in (found.first, found.second) if isinstance(found, PairBatch) else (found,):
        assert (one.labels is not None and one.labels.ask is not None) == method.asks_teacher


def test_a_gradient_that_is_not_finite_changes_nothing(trainer: tuple[str, SSODTrainer]) -> None:
    """But for the views that MixPL's student has seen, which are kept, as in the public code.

    A teacher that is to be a copy becomes one all the same: here it is before the step.
    """
    _, run = trainer
    step = run._trainer
    run.teacher.load_state_dict(run.student.state_dict())
    step._data_loader_iter_obj = iter([batch_of(run, run.cfg.SSOD.BURN_IN_ITERS)])
    before = _state(run)
    parameter = next(p for p in run.student.parameters() if p.requires_grad)
    hook = parameter.register_hook(lambda gradient: gradient * math.inf)
    with EventStorage(0) as storage:
        step.run_step()
    hook.remove()
    assert storage.latest()["ssod/skipped_steps"][0] == step.guard.skipped == 1
    assert {name for name in differences(_state(run), before) if "older_views" not in name} == set()


def _state(run: SSODTrainer) -> dict[str, str]:
    """What a step changes of student, teacher, method and optimizer."""
    parts = (run.student, run.teacher, run.method, run._trainer.optimizer)
    return flattened([part.state_dict() for part in parts], "state")


@pytest.mark.parametrize("trainer", SEMI_SUPERVISED, indirect=True, scope="module")
def test_what_it_labels_is_drawn_and_measured(
    trainer: tuple[str, SSODTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, run = trainer
    step, iteration = run._trainer, run.cfg.SSOD.BURN_IN_ITERS
    batch = batch_of(run, iteration)
    expected = _learned(run, batch)
    step.last_batch = replace(batch, unlabeled=batch.unlabeled[:1])
    hook = PanelHook(run.cfg, step, run.student, run.pools.classes)
    hook.trainer = SimpleNamespace(iter=iteration, storage=EventStorage(iteration))
    drawn = Mock(wraps=draw_inspection)
    monkeypatch.setattr("dre_ssod.inspection.panels.draw_inspection", drawn)
    # How large it is drawn is no question of the method.
    monkeypatch.setattr("dre_ssod.inspection.canvas.READABLE_SIDE", max(SIZE))
    hook.after_step()
    proposals = drawn.call_args.args[0].proposals
    assert proposals.has("weight") == EXPECTED[name].shows_weights
    panels = Path(run.cfg.OUTPUT_DIR) / "panels"
    assert [path.name for path in panels.iterdir()] == [f"{iteration:07d}_0.jpg"]
    assert (run.probe is None) == (not METHODS.get(name).uses_teacher)
    if run.probe is not None:
        figures = run.probe.measure(run.teacher, step.clock)
        assert figures["boxes_per_image"] > 0.0
        assert 0.0 <= figures["precision"] <= 1.0
    if EXPECTED[name].shows_weights:
        # The loss weighs regions by what panels show.
        with monkeypatch.context() as patch:
            patch.setattr(run.method, "region_weights", lambda cls: torch.zeros(len(cls.classes)))
            assert losses_of(run, batch).unsupervised["loss_cls_unsup"] == 0.0
    # Whoever asks for labels changes nothing, not even in the iteration that they are then for.
    assert differences(_learned(run, batch), expected) == []


def _learned(run: SSODTrainer, batch: TrainingBatch) -> dict[str, str]:
    """The method's state once it has learned from a batch; the method itself stays as it is."""
    step = run._trainer
    own, step.method = step.method, copy.deepcopy(step.method)
    counts = losses_of(run, batch).counts
    step.method.learn(step.method.tally([counts] if counts else []))
    found = flattened(step.method.state_dict(), "method")
    step.method = own
    return found


@pytest.mark.parametrize("lacking", ["labels", "pseudo-labels", "both"])
def test_without_boxes_losses_are_finite_and_tied_to_every_parameter(
    trainer: tuple[str, SSODTrainer], lacking: str
) -> None:
    """So every process has the same graph, whatever is on its images."""
    name, run = trainer
    batch = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS)
    if lacking != "pseudo-labels":
        batch = replace(batch, labeled=[without_boxes(image) for image in batch.labeled])
    if lacking != "labels":
        batch = replace(batch, unlabeled=[out_of_sight(sample) for sample in batch.unlabeled])
    losses = losses_of(run, batch)
    assert losses.unsupervised.keys() == EXPECTED[name].terms
    total = losses.total(run._trainer.weight)
    run.student.zero_grad()
    total.backward()
    assert math.isfinite(total.item())
    for key, parameter in run.student.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


class Recorded:
    """Settings that remember which of their fields have been read."""

    def __init__(self, settings: Any) -> None:
        self.settings, self.names = settings, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self.settings, name)


FURTHER = {
    "DRE": ("SSOD.LABELS.RANK_SHARE", 0.5),
    # Views without a label.
    "MixPL": ("SSOD.MIXPL.MAX_ERASED", 0.0),
    # Labels that the run makes itself.
    "STAC": ("SSOD.STAC.LABELS", ""),
}
"""Under which a method reads the settings that it does not read otherwise."""


def test_settings_that_it_does_not_read_are_declared(
    trainer: tuple[str, SSODTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, run = trainer
    used: list[Recorded] = []
    plain = type(run.method).settings_of

    def recorded(cfg: Any) -> Recorded:
        used.append(Recorded(plain(cfg)))
        return used[-1]

    monkeypatch.setattr(type(run.method), "settings_of", recorded)
    for keys in {(), FURTHER.get(name, ())}:
        cfg = run.cfg.clone()
        cfg.defrost()
        cfg.merge_from_list(keys)
        method = build_method(cfg)
        if not keys:
            method.prepare(run.pools)
        method.study(run.pools)
        method.load_state_dict(run.method.state_dict())
        monkeypatch.setattr(run._trainer, "method", method)
        losses = losses_of(run, batch_of(run, run.cfg.SSOD.BURN_IN_ITERS))
        losses.total(run._trainer.weight)
        method.learn(method.tally([losses.counts] if losses.counts else []))
        for iteration in range(6):
            clock = Clock(iteration, 2, 6)
            method.decay(clock)
            method.mixer(clock)
    found = set().union(*(settings.names for settings in used))
    # The decay that a run may have comes of both.
    found |= {"ema_horizon"} if "ema_decay" in found else set()
    # The detector asks for them, and without pseudo-labels they say nothing.
    found -= set() if method.uses_unlabeled else {"rpn_objectness", "rpn_box"}
    assert found == {field.name for field in fields(method.Settings)} - set(method.unread)


def test_the_burn_in_learns_from_labels_alone(trainer: tuple[str, SSODTrainer]) -> None:
    _, run = trainer
    batch = batch_of(run)
    assert batch.labeled
    assert not batch.unlabeled
    losses = losses_of(run, batch)
    assert not losses.unsupervised
    assert math.isfinite(losses.total(run._trainer.weight).item())


@pytest.mark.parametrize("name", NAMES)
def test_no_unlabeled_images(
    name: str, data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before anything is trained, but by the baseline, which wants none."""
    keys = {"DATASETS.UNLABELED": (), "DATASETS.LABELED_PERCENT": 100.0, "SSOD.STAC.LABELS": ""}
    cfg = config_of(name, data, tmp_path, **keys)
    monkeypatch.setattr(SSODTrainer, "train", lambda _: pytest.fail("something was trained"))
    if not METHODS.get(name).uses_unlabeled:
        assert not start(cfg, resume=False).pools.unlabeled
        return
    with pytest.raises(ConfigError, match=r"no unlabeled images: .*SSOD\.ENABLED False"):
        start(cfg, resume=False)


# Hidden annotations


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_annotations_of_unlabeled_images_are_never_read(
    name: str, data: TinyDataset, tmp_path: Path
) -> None:
    """With other boxes on the images whose labels are hidden, a run sees the same batches."""
    first = trainer_of(name, data, tmp_path)
    labeled = {record["image_id"] for record in first.pools.labeled}
    content = json.loads((data.root / "train.json").read_text())
    for item in content["annotations"]:
        if item["image_id"] not in labeled:
            item["bbox"], item["category_id"] = [1.0, 1.0, 9.0, 9.0], 1
    other = write_tiny_dataset(tmp_path / "other")
    (other.root / "train.json").write_text(json.dumps(content))
    second = trainer_of(name, other, tmp_path)
    assert all(set(record) <= set(UNLABELED_KEYS) for record in first.pools.unlabeled)
    one, two = (batch_of(run, run.cfg.SSOD.BURN_IN_ITERS) for run in (first, second))
    assert len(one.unlabeled) == len(two.unlabeled) > 0
    for mine, theirs in zip(one.unlabeled, two.unlabeled, strict=True):
        assert torch.equal(mine.weak.image, theirs.weak.image)
        assert torch.equal(mine.strong.image, theirs.strong.image)
    ours, others = (losses_of(run, batch) for run, batch in ((first, one), (second, two)))
    for key, value in ours.unsupervised.items():
        assert torch.equal(value, others.unsupervised[key]), key


def test_its_mapper_refuses_an_unlabeled_image_with_annotations(
    trainer: tuple[str, SSODTrainer],
) -> None:
    name, run = trainer
    if name not in SEMI_SUPERVISED:
        assert not run.pools.unlabeled
        return
    _, mapper = run.method.mappers(run.cfg)
    record = {**run.pools.unlabeled[0], "annotations": []}
    with pytest.raises(ValueError, match="carries 'annotations'"):
        mapper(record, None)
