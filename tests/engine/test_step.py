"""A whole training step: what it writes, moves and repeats."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from dre_ssod.engine import step
from dre_ssod.engine.metrics import StepTotals
from dre_ssod.transfers import HostCopy
from tests.engine.steps import (
    SAMPLE_ALL,
    assert_close,
    assert_equal,
    batch,
    gradients,
    make_trainer,
    run,
    state,
)


def test_a_step_writes_every_loss_and_figure() -> None:
    found = run(make_trainer([batch(0, 1, 2)]))
    terms = ("loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc")
    supervised = sum(found[name] for name in terms)
    unsupervised = sum(found[f"{name}_unsup"] for name in terms)
    assert found["total_loss"] == pytest.approx(supervised + 2.0 * unsupervised, rel=1e-5)
    assert found["ssod/labeled_boxes_per_image"] == 2.0
    assert found["ssod/pseudo_boxes_per_image"] > 0.0
    assert 0.3 <= found["ssod/pseudo_score"] <= 1.0
    assert found["ssod/ema_decay"] == 0.0
    for name in ("sigma", "pseudo_localization_quality", "prc_weight_fg", "prc_weight_bg"):
        assert found[f"ssod/{name}"] > 0.0
    assert 0.0 < found["ssod/ler_weight"] < 0.5


def test_the_norm_that_is_written_is_that_of_the_gradients_of_the_step() -> None:
    trainer = make_trainer([batch(0), batch(1)], accumulation_steps=2)
    found = run(trainer)
    flat = torch.cat([gradient.flatten() for gradient in gradients(trainer.model).values()])
    assert found["ssod/gradient_norm"] == pytest.approx(float(flat.norm()), rel=1e-3)


def test_large_blocks_are_apart_in_the_first_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    @contextlib.contextmanager
    def apart() -> Iterator[None]:
        events.append("begins")
        yield
        events.append("ends")

    monkeypatch.setattr(step, "large_blocks_apart", apart)
    trainer = make_trainer([batch(0), batch(1)])
    monkeypatch.setattr(trainer, "after_backward", lambda: events.append("computed"))
    run(trainer, [0, 1])
    assert events == ["begins", "computed", "ends", "computed"]


def test_a_step_says_that_memory_is_running_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(step, "is_short", lambda: next(answers))
    handed: list[bool] = []
    monkeypatch.setattr(step, "hand_back", lambda: handed.append(True) or True)
    trainer = make_trainer([batch(0), batch(1)])
    run(trainer, [0])
    assert handed == []
    assert "Memory is running out" not in caplog.text
    run(trainer, [1])
    assert handed == [True]
    assert "Memory is running out" in caplog.text
    assert "SOLVER.ACCUMULATION_STEPS" in caplog.text


def test_the_teacher_moves_by_the_average_alone() -> None:
    trainer = make_trainer([batch(0)])
    before = state(trainer.teacher)
    student_before = state(trainer.model)
    # Step 3 has decay 3/4.
    run(trainer, [3])
    student = state(trainer.model)
    assert any(not torch.equal(student[name], student_before[name]) for name in student)
    for name, tensor in state(trainer.teacher).items():
        torch.testing.assert_close(tensor, 0.75 * before[name] + 0.25 * student[name])
    for parameter in trainer.teacher.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    assert not any(module.training for module in trainer.teacher.modules())
    assert trainer.model.training


def test_after_the_first_step_the_teacher_is_the_student() -> None:
    trainer = make_trainer([batch(0)])
    run(trainer)
    assert_equal(state(trainer.teacher), state(trainer.model))


def test_pseudo_labels_are_on_their_way_before_the_students_features_and_read_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = []

    class Recorded(HostCopy):
        def __init__(self, tensor: Tensor) -> None:
            order.append("copied")
            super().__init__(tensor)

        def read(self) -> Tensor:
            order.append("read")
            return super().read()

    monkeypatch.setattr("dre_ssod.teacher.HostCopy", Recorded)
    trainer = make_trainer([batch(0)])
    trainer.model.backbone.register_forward_hook(lambda *_: order.append("features"))
    run(trainer)
    assert order == ["copied", "features", "read"]


def test_the_gradient_is_linear_in_beta_and_beta_does_not_reach_the_variance() -> None:
    """Eq. 3, and no gradient from unlabeled images into the variance branch."""
    found = {}
    for beta in (0.0, 1.0, 3.0):
        trainer = make_trainer([batch(0)], lr=0.0, overrides=SAMPLE_ALL, unsup_loss_weight=beta)
        run(trainer)
        found[beta] = gradients(trainer.model)
    variance = [name for name in found[0.0] if "log_variance" in name]
    assert len(variance) == 2
    for name in variance:
        assert found[0.0][name].abs().max() > 0.0
        torch.testing.assert_close(found[3.0][name], found[0.0][name])
    one = {name: found[1.0][name] - found[0.0][name] for name in found[0.0]}
    three = {name: (found[3.0][name] - found[0.0][name]) / 3.0 for name in found[0.0]}
    assert one["roi_heads.box_predictor.cls_score.weight"].abs().max() > 0.0
    for name in one:
        scale = float(found[3.0][name].abs().max())
        torch.testing.assert_close(one[name], three[name], rtol=1e-3, atol=1e-4 * scale, msg=name)


def test_without_unlabeled_images_the_gradient_is_that_of_beta_zero() -> None:
    both = make_trainer([batch(0)], lr=0.0, overrides=SAMPLE_ALL, unsup_loss_weight=0.0)
    alone = make_trainer([batch(0, unlabeled=0)], lr=0.0, overrides=SAMPLE_ALL)
    found = run(alone)
    run(both)
    assert_close(gradients(both.model), gradients(alone.model))
    assert not [name for name in found if name.endswith("_unsup") or "pseudo" in name]


def test_accumulation_is_the_mean_over_micro_batches() -> None:
    batches = [batch(0), batch(1, labeled=2), batch(2, unlabeled=2)]
    trainer = make_trainer(batches, lr=0.0, overrides=SAMPLE_ALL, accumulation_steps=3)
    together = run(trainer)
    mean: dict[str, Tensor] = {}
    totals = []
    for micro_batch in batches:
        single = make_trainer([micro_batch], lr=0.0, overrides=SAMPLE_ALL)
        totals.append(run(single)["total_loss"])
        for name, gradient in gradients(single.model).items():
            mean[name] = mean.get(name, torch.zeros_like(gradient)) + gradient / 3.0
    assert_close(gradients(trainer.model), mean)
    assert together["total_loss"] == pytest.approx(sum(totals) / 3.0, rel=1e-5)


def test_a_step_is_a_function_of_seed_and_iteration() -> None:
    def totals(seed: int, iteration: int, noise: int) -> tuple[float, dict[str, Tensor]]:
        torch.manual_seed(noise)
        # Many more anchors than are sampled, so that the draw shows.
        trainer = make_trainer([batch(0)], seed=seed)
        return run(trainer, [iteration])["total_loss"], state(trainer.model)

    loss, weights = totals(seed=1, iteration=5, noise=0)
    again, weights_again = totals(seed=1, iteration=5, noise=123)
    assert loss == again
    assert_equal(weights, weights_again)
    assert totals(seed=2, iteration=5, noise=0)[0] != loss
    assert totals(seed=1, iteration=6, noise=0)[0] != loss


@pytest.mark.parametrize(
    ("copy", "expected"),
    [(True, [0.0, 0.5, 0.0, 0.5]), (False, [0.0, 0.5, 1 - 1 / 3, 0.75])],
)
def test_the_burn_in_ends_with_a_copy_of_the_student_or_goes_on_averaging(
    copy: bool, expected: list[float]
) -> None:
    batches = [batch(number, unlabeled=0) for number in range(2)] + [batch(2), batch(3)]
    trainer = make_trainer(batches, lr=1e-4, burn_in_iters=2, burn_in_copy=copy)
    decays, copied = [], []
    with EventStorage(0) as storage:
        for trainer.iter in range(4):
            trainer.run_step()
            decays.append(storage.latest()["ssod/ema_decay"][0])
            pairs = zip(state(trainer.teacher).values(), state(trainer.model).values(), strict=True)
            copied.append(all(torch.equal(*pair) for pair in pairs))
    assert decays == expected
    assert copied == [decay == 0.0 for decay in expected]


def test_a_dead_teacher_leaves_a_finite_step() -> None:
    trainer = make_trainer([batch(0, 1, 2)])
    with torch.no_grad():
        trainer.teacher.roi_heads.box_predictor.cls_score.bias[-1] = 1e4
    found = run(trainer)
    assert found["ssod/pseudo_boxes_per_image"] == 0.0
    assert found["loss_box_reg_unsup"] == found["loss_rpn_loc_unsup"] == 0.0
    assert math.isfinite(found["total_loss"])
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert gradients(trainer.model).keys() == trained


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_autocast_is_in_force_for_student_and_teacher(dtype: torch.dtype | None) -> None:
    trainer = make_trainer([batch(0)], autocast_dtype=dtype)
    seen: dict[str, set[torch.dtype]] = {"student": set(), "teacher": set()}
    for name, model in (("student", trainer.model), ("teacher", trainer.teacher)):
        for module in model.modules():
            # Depthwise layers stay in float32 on a CPU: tests/modeling/test_backbone.py.
            if isinstance(module, nn.Conv2d | nn.Linear) and getattr(module, "groups", 1) == 1:
                module.register_forward_hook(
                    lambda _, __, output, name=name: seen[name].add(output.dtype)
                )
    found = run(trainer)
    expected = {dtype or torch.float32}
    assert seen == {"student": expected, "teacher": expected}
    # Weights, gradients and losses stay in float32.
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert {g.dtype for g in gradients(trainer.model).values()} == {torch.float32}
    assert math.isfinite(found["total_loss"])


def test_an_overflow_that_the_scaler_skips_moves_neither_student_nor_teacher() -> None:
    trainer = make_trainer([batch(0), batch(1)], autocast_dtype=torch.float16)
    parameter = trainer.model.roi_heads.box_predictor.cls_score.weight
    handle = parameter.register_hook(lambda gradient: gradient * math.inf)
    before = state(trainer.model), state(trainer.teacher)
    scale = trainer.grad_scaler.get_scale()
    run(trainer, [1])
    assert trainer.grad_scaler.get_scale() == scale / 2
    assert_equal(state(trainer.model), before[0])
    assert_equal(state(trainer.teacher), before[1])
    handle.remove()
    trainer.grad_scaler.update(1.0)
    run(trainer, [2])
    assert any(not torch.equal(t, before[0][n]) for n, t in state(trainer.model).items())
    assert any(not torch.equal(t, before[1][n]) for n, t in state(trainer.teacher).items())


def test_a_copy_of_the_student_needs_no_step_of_it() -> None:
    """It is made once: lost in an overflow, the teacher would stay what the run started with."""
    trainer = make_trainer([batch(0)], autocast_dtype=torch.float16, burn_in_iters=3)
    parameter = trainer.model.roi_heads.box_predictor.cls_score.weight
    parameter.register_hook(lambda gradient: gradient * math.inf)
    before = state(trainer.model)
    assert any(not torch.equal(t, before[n]) for n, t in state(trainer.teacher).items())
    run(trainer, [3])
    assert_equal(state(trainer.model), before)
    assert_equal(state(trainer.teacher), before)


def test_a_gpu_has_all_its_work_before_the_figures_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make_trainer([batch(0)])
    before = state(trainer.model), state(trainer.teacher)
    written = []

    def write(*_: object) -> None:
        written.append([state(trainer.model), state(trainer.teacher)])

    monkeypatch.setattr(StepTotals, "write", write)
    run(trainer)
    for earlier, now in zip(before, *written, strict=True):
        assert any(not torch.equal(tensor, now[name]) for name, tensor in earlier.items())


def test_bfloat16_gives_nearly_the_losses_of_float32() -> None:
    losses = []
    for dtype in (None, torch.bfloat16):
        # Labels alone: which proposals pass a threshold would jump with rounding.
        trainer = make_trainer([batch(0, 2, 0)], overrides=SAMPLE_ALL, autocast_dtype=dtype)
        losses.append(run(trainer)["total_loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_state_survives_a_round_trip() -> None:
    trainer = make_trainer([batch(0), batch(1)])
    run(trainer, [0, 1])
    saved = copy.deepcopy(trainer.state_dict())
    assert (saved["iteration"], saved["seed"]) == (1, 11)
    other = make_trainer([])
    other.load_state_dict(saved)
    assert other.iter == 1
    momentum = [s["momentum_buffer"] for s in other.optimizer.state_dict()["state"].values()]
    expected = [s["momentum_buffer"] for s in trainer.optimizer.state_dict()["state"].values()]
    assert len(momentum) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(momentum, expected, strict=True))


def test_a_student_in_eval_mode_is_refused() -> None:
    trainer = make_trainer([batch(0)])
    trainer.model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        run(trainer)
