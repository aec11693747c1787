from __future__ import annotations

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor

from dre_ssod.engine.metrics import FigurePrinter, StepMetrics
from dre_ssod.structures import Mean, StudentLosses
from tests.factories import beta_4


def losses(
    supervised: dict[str, float],
    unsupervised: dict[str, float] | None = None,
    figures: dict[str, list[float]] | None = None,
) -> StudentLosses:
    def tensors(values: dict[str, float] | None) -> dict[str, Tensor]:
        return {k: torch.tensor(v, requires_grad=True) for k, v in (values or {}).items()}

    return StudentLosses(
        tensors(supervised),
        tensors(unsupervised),
        {name: Mean.of(torch.tensor(values)) for name, values in (figures or {}).items()},
    )


def written(*batches: StudentLosses, extra: dict[str, float] | None = None) -> dict[str, float]:
    metrics = StepMetrics(data_time=0.25)
    for batch in batches:
        metrics.add(batch)
    metrics.collect()
    with EventStorage(0) as storage:
        metrics.write(7, beta_4, extra or {})
        latest = storage.latest()
    assert {iteration for _, iteration in latest.values()} == {7}
    return {name: value for name, (value, _) in latest.items()}


def test_losses_are_written_before_beta_and_the_total_after_it() -> None:
    found = written(losses({"loss_cls": 2.0, "loss_box_reg": -0.5}, {"loss_cls_unsup": 0.25}))
    assert found["loss_cls"] == 2.0
    assert found["loss_box_reg"] == -0.5
    assert found["loss_cls_unsup"] == 0.25
    assert found["total_loss"] == pytest.approx(2.0 - 0.5 + 4.0 * 0.25)
    assert found["data_time"] == found["rank_data_time"] == 0.25


def test_losses_are_means_over_micro_batches_and_figures_over_their_items() -> None:
    found = written(
        losses({"loss_cls": 1.0}, {"loss_cls_unsup": 0.5}, {"sigma": [1.0, 2.0, 3.0]}),
        losses({"loss_cls": 3.0}, {"loss_cls_unsup": 1.5}, {"sigma": [10.0]}),
    )
    assert found["loss_cls"] == 2.0
    assert found["total_loss"] == pytest.approx(2.0 + 4.0 * 1.0)
    # 16 / 4, and not the mean of the means 2 and 10.
    assert found["ssod/sigma"] == 4.0


def test_a_figure_of_nothing_is_left_out() -> None:
    found = written(losses({"loss_cls": 1.0}, figures={"pseudo_score": [], "sigma": [2.0]}))
    assert "ssod/pseudo_score" not in found
    assert found["ssod/sigma"] == 2.0


def test_further_figures_are_named_like_the_others_and_not_summed() -> None:
    found = written(losses({"loss_cls": 1.0}, figures={"sigma": [5.0]}), extra={"ema_decay": 0.9})
    assert found["ssod/ema_decay"] == 0.9
    assert found["total_loss"] == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["supervised", "unsupervised"])
def test_a_loss_that_is_not_finite_is_named(value: float, part: str) -> None:
    broken = losses({"loss_rpn_cls": 1.0})
    getattr(broken, part)["loss_bad"] = torch.tensor(value)
    metrics = StepMetrics(data_time=0.0)
    metrics.add(losses({"loss_rpn_cls": 2.0, "loss_bad": 1.0}))
    metrics.add(broken)
    metrics.collect()
    assert metrics.broken_losses.keys() == {"loss_bad"}
    assert metrics.losses["loss_rpn_cls"] == 1.5


def test_a_negative_loss_is_no_error() -> None:
    assert written(losses({"loss_box_reg": -3.0}))["total_loss"] == -3.0


def test_the_norm_of_the_gradients_and_signals_come_with_the_losses() -> None:
    metrics = StepMetrics(data_time=0.0)
    metrics.add(losses({"loss_cls": 1.0}))
    metrics.add_gradient_norm(torch.tensor(2.5))
    metrics.add_signals({"SIGTERM": 0.0, "SIGINT": 1.0}, torch.device("cpu"))
    metrics.collect()
    assert metrics.gradient_norm == 2.5
    assert metrics.signals == {"SIGTERM": 0.0, "SIGINT": 1.0}
    assert metrics.losses == {"loss_cls": 1.0}
    with EventStorage(0) as storage:
        metrics.write(0, beta_4, {})
        assert storage.latest()["ssod/gradient_norm"] == (2.5, 0)
        assert not [name for name in storage.latest() if "SIG" in name]


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_no_figure(norm: float) -> None:
    metrics = StepMetrics(data_time=0.0)
    metrics.add(losses({"loss_cls": 1.0}))
    metrics.add_gradient_norm(torch.tensor(norm))
    metrics.collect()
    assert not math.isfinite(metrics.gradient_norm)
    with EventStorage(0) as storage:
        metrics.write(0, beta_4, {})
        assert "ssod/gradient_norm" not in storage.latest()


def test_metrics_hold_no_graph() -> None:
    batch = losses({"loss_cls": 1.0}, figures={"sigma": [1.0]})
    metrics = StepMetrics(data_time=0.0)
    metrics.add(batch)
    assert not any(t.requires_grad for t in [*metrics._sums.values(), *metrics._counts.values()])


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *args: object) -> None:
        self.lines.append(text % args)


def test_the_printer_shows_the_median_of_the_figures_only() -> None:
    out = Lines()
    printer = FigurePrinter(out, window=3)
    with EventStorage(0) as storage:
        printer.write()
        assert out.lines == []
        for iteration, value in enumerate([50.0, 1.0, 3.0, 2.0]):
            storage.iter = iteration
            storage.put_scalars(**{"ssod/sigma": value, "total_loss": 9.0, "ssod/a": 0.123456})
        printer.write()
    assert out.lines == ["  ssod  a: 0.1235  sigma: 2"]
