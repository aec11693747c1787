from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dre_ssod.engine.metrics import StepMetrics, StepTotals
from dre_ssod.engine.nonfinite import MAX_IN_A_ROW, MAX_OVERFLOWS, NonfiniteGuard
from dre_ssod.engine.running_statistics import RunningStatistics
from dre_ssod.structures import StudentLosses


class Scaler:
    """Stands for a gradient scaler, which a CPU has no use for."""

    def __init__(self, enabled: bool = False) -> None:
        self._enabled = enabled

    def is_enabled(self) -> bool:
        return self._enabled


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def guard(net: nn.Module, skip: bool = False, scaler: bool = False) -> NonfiniteGuard:
    scaling: Any = Scaler(scaler)
    return NonfiniteGuard(net, RunningStatistics(net), scaling, skip)


def totals(judge: NonfiniteGuard, loss: float = 1.0) -> StepTotals:
    found = StepMetrics(0.0, torch.device("cpu"))
    found.add(StudentLosses({"loss_cls": torch.tensor(loss), "loss_box_reg": torch.tensor(2.0)}))
    return found.exchange(judge.gradient_norm(), (False, False, False), {})


def fill_gradients(net: nn.Module, value: float = 0.5) -> list[Tensor]:
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return [parameter.grad for parameter in net.parameters()]


def test_the_norm_is_that_of_all_gradients_together() -> None:
    net = model()
    fill_gradients(net)
    net[0].bias.grad = None
    count = sum(parameter.numel() for parameter in net.parameters()) - 3
    assert float(guard(net).gradient_norm()) == pytest.approx(0.5 * count**0.5)


@pytest.mark.parametrize("skip", [False, True])
def test_a_finite_step_is_taken(skip: bool) -> None:
    net = model()
    fill_gradients(net)
    judge = guard(net, skip)
    judge.before_forward()
    net(torch.randn(4, 2))
    after = net[1].running_mean.clone()
    assert judge.accepts(totals(judge), "here")
    assert judge.skipped == 0
    assert torch.equal(net[1].running_mean, after)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_named(value: float) -> None:
    net = model()
    fill_gradients(net)[2][1] = value
    judge = guard(net)
    with pytest.raises(FloatingPointError, match=r"iteration 7.*not finite: 1\.weight\. .*BASE_LR"):
        judge.accepts(totals(judge), "iteration 7, images ['a.png']")


def test_many_names_are_counted_and_an_overflow_of_the_norm_is_told_apart() -> None:
    net = nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
    fill_gradients(net, math.nan)
    judge = guard(net)
    with pytest.raises(FloatingPointError, match=r"3\.bias and 4 more"):
        judge.accepts(totals(judge), "here")
    fill_gradients(net, 3e38)
    with pytest.raises(FloatingPointError, match="their norm alone overflows"):
        judge.accepts(totals(judge), "here")


def test_a_loss_is_named_before_gradients_are() -> None:
    net = model()
    fill_gradients(net, math.nan)
    judge = guard(net)
    with pytest.raises(
        FloatingPointError, match=r"\{'loss_cls': nan\} \(all losses: .*loss_box_reg"
    ):
        judge.accepts(totals(judge, loss=math.nan), "here")


def test_a_skipped_step_leaves_no_trace_in_the_statistics() -> None:
    net = model()
    fill_gradients(net, math.inf)
    judge = guard(net, skip=True)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    judge.before_forward()
    net(torch.full((4, 2), math.inf))
    assert not net[1].running_mean.isfinite().any()
    assert not judge.accepts(totals(judge), "here")
    assert judge.skipped == 1
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_too_many_skipped_steps_in_a_row_stop_the_run() -> None:
    net = model()
    judge = guard(net, skip=True)
    judge.before_forward()
    for _ in range(2):
        fill_gradients(net, math.inf)
        for _ in range(MAX_IN_A_ROW - 1):
            assert not judge.accepts(totals(judge), "here")
        # A good step begins the count anew, and a resume does not.
        fill_gradients(net)
        assert judge.accepts(totals(judge), "here")
    fill_gradients(net, math.inf)
    for _ in range(MAX_IN_A_ROW - 1):
        judge.accepts(totals(judge), "here")
    resumed = guard(net, skip=True)
    resumed.load_state_dict(judge.state_dict())
    resumed.before_forward()
    with pytest.raises(FloatingPointError, match=rf"step {MAX_IN_A_ROW} in a row"):
        resumed.accepts(totals(resumed), "here")
    assert resumed.skipped == 3 * (MAX_IN_A_ROW - 1) + 1


def test_overflow_under_gradient_scaling_is_normal_until_it_never_ends() -> None:
    net = model()
    judge = guard(net, scaler=True)
    fill_gradients(net, math.inf)
    for _ in range(MAX_OVERFLOWS):
        assert judge.accepts(totals(judge), "here")
    assert judge.skipped == 0
    with pytest.raises(FloatingPointError, match=r"0\.weight"):
        judge.accepts(totals(judge), "here")
    fill_gradients(net)
    assert judge.accepts(totals(judge), "here")
    # A broken loss is no matter of scaling.
    with pytest.raises(FloatingPointError, match="loss_cls"):
        judge.accepts(totals(judge, loss=math.nan), "here")


def test_a_forward_pass_that_broke_off_is_skipped_alone() -> None:
    judge = guard(model(), skip=True)
    judge.before_forward()
    judge.refuse_forward(FloatingPointError("proposals"), "here")
    assert judge.skipped == 1
    with pytest.raises(
        FloatingPointError, match=r"here: proposals .*SOLVER\.CLIP_GRADIENTS\.ENABLED True"
    ):
        guard(model()).refuse_forward(FloatingPointError("proposals"), "here")
