"""Losses, weights and gradients that are not finite, in a whole step."""

from __future__ import annotations

import copy
import math
import signal

import pytest
import torch

from tests.engine.steps import assert_equal, batch, make_trainer, run, state


def test_a_loss_that_is_not_finite_names_its_cause_and_changes_nothing() -> None:
    trainer = make_trainer([batch(4), batch(7)], accumulation_steps=2)
    with torch.no_grad():
        # Finite weights, infinite logits.
        trainer.model.roi_heads.box_predictor.cls_score.weight.fill_(3e38)
    student, teacher = state(trainer.model), state(trainer.teacher)
    optimizer = copy.deepcopy(trainer.optimizer.state_dict())
    with pytest.raises(FloatingPointError) as error:
        run(trainer, [123])
    message = str(error.value)
    for word in ("iteration 123", "loss_cls", "labeled40.png", "labeled70.png"):
        assert word in message
    assert "unlabeled40.png" in message
    assert_equal(state(trainer.model), student)
    assert_equal(state(trainer.teacher), teacher)
    assert trainer.optimizer.state_dict() == optimizer


def test_weights_that_are_not_finite_name_the_iteration_and_the_images() -> None:
    """Detectron2's own check speaks first there, without saying when and where."""
    trainer = make_trainer([batch(4)])
    with torch.no_grad():
        trainer.model.proposal_generator.rpn_head.conv.weight.fill_(math.nan)
    teacher = state(trainer.teacher)
    with pytest.raises(FloatingPointError, match=r"iteration 9.*labeled40.png") as error:
        run(trainer, [9])
    assert "unlabeled40.png" in str(error.value)
    assert_equal(state(trainer.teacher), teacher)


def test_a_gradient_that_is_not_finite_names_its_parameters_and_changes_nothing() -> None:
    trainer = make_trainer([batch(4)])
    name = "roi_heads.box_head.fc1.weight"
    trainer.model.get_parameter(name).register_hook(lambda gradient: gradient * math.nan)
    student, teacher = state(trainer.model), state(trainer.teacher)
    with pytest.raises(FloatingPointError, match=rf"iteration 3.*labeled40.png.*{name}\."):
        run(trainer, [3])
    assert_equal(state(trainer.model), student)
    assert_equal(state(trainer.teacher), teacher)


@pytest.mark.parametrize("kind", ["gradient", "loss", "forward"])
def test_a_step_that_is_not_finite_is_skipped_where_configured(kind: str) -> None:
    """The steps around it are those of a run that never saw its batch."""
    trainer = make_trainer([batch(0), batch(4), batch(1)], skip_nonfinite=True, lr=1e-3)
    other = make_trainer([batch(0), batch(1)], lr=1e-3)
    run(trainer, [0])
    run(other, [0])
    if kind == "gradient":
        weight = trainer.model.get_parameter("roi_heads.box_head.fc1.weight")
        handle = weight.register_hook(lambda gradient: gradient * math.inf)
    else:
        layers = {"loss": "roi_heads.box_predictor.cls_score", "forward": "backbone.fpn_lateral2"}
        layer = trainer.model.get_submodule(layers[kind])
        handle = layer.register_forward_hook(lambda *args: args[-1] * math.nan)
    found = run(trainer, [1])
    assert found["ssod/skipped_steps"] == 1.0
    assert "total_loss" not in found
    assert_equal(state(trainer.model), state(other.model))
    assert_equal(state(trainer.teacher), state(other.teacher))
    handle.remove()
    assert run(trainer, [2])["ssod/skipped_steps"] == 1.0
    run(other, [2])
    assert_equal(state(trainer.model), state(other.model))
    assert_equal(state(trainer.teacher), state(other.teacher))


def test_a_signal_during_a_skipped_forward_pass_is_served() -> None:
    trainer = make_trainer([batch(0)], skip_nonfinite=True)
    layer = trainer.model.get_submodule("backbone.fpn_lateral2")
    layer.register_forward_hook(lambda *args: args[-1] * math.nan)
    with trainer.signals.caught():
        signal.raise_signal(signal.SIGTERM)
        assert run(trainer)["ssod/skipped_steps"] == 1.0
    assert trainer.signals.stop == signal.SIGTERM
