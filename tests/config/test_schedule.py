"""Schedules that cannot be trained, and those that were hardly meant."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from detectron2.solver import build_lr_scheduler

from dre_ssod.config.checks import CHECKS as TABLE
from dre_ssod.config.checks import check_config
from dre_ssod.config.reading import read_config
from dre_ssod.config.schedule import say_schedule
from dre_ssod.errors import ConfigError
from tests import ROOT

CHECKS: dict[str, Any] = TABLE
COCO = str(ROOT / "configs" / "coco_10pct.yaml")
RUN = ("SOLVER.MAX_ITER", 900, "SOLVER.STEPS", (600,), "SOLVER.WARMUP_ITERS")
COSINE = ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")
RESCALED = ("SOLVER.RESCALE_INTERVAL", True)


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("dre_ssod"), "propagate", True)


def refusal(*opts: Any) -> str:
    with pytest.raises(ConfigError) as error:
        check_config(read_config(COCO, opts), 1)
    return str(error.value)


def test_a_step_at_the_end_is_refused() -> None:
    run = ("SOLVER.MAX_ITER", 500, "SOLVER.STEPS")
    message = refusal(*run, (300, 500))
    assert message.startswith("SOLVER.STEPS is (300, 500); it must be iterations before the end of")
    assert 'SOLVER.MAX_ITER 500: leave that one out, or write "()"' in message
    # Those beyond are passed over, with a warning of Detectron2's; others read none.
    for opts in (((499,),), ((300, 501),), ((500,), *COSINE)):
        check_config(read_config(COCO, (*run, *opts)), 1)


@pytest.mark.parametrize("rate", [0.011, -0.001, float("nan")])
def test_a_cosine_that_does_not_fall_is_refused(rate: float) -> None:
    message = refusal(*COSINE, "SOLVER.BASE_LR_END", rate)
    assert message.startswith(f"SOLVER.BASE_LR_END is {rate}; it must be a number from 0 to SOLVER")
    assert "BASE_LR, 0.01, from" in message
    check_config(read_config(COCO, (*COSINE, "SOLVER.BASE_LR_END", 0.01)), 1)
    check_config(read_config(COCO, ("SOLVER.BASE_LR_END", rate)), 1)


def test_a_warm_up_that_leaves_nothing_to_rescale_is_refused() -> None:
    message = refusal(*RUN, 900, *RESCALED)
    assert message.startswith("SOLVER.WARMUP_ITERS is 900; it must be less than SOLVER.MAX_ITER, 9")
    check_config(read_config(COCO, (*RUN, 900)), 1)


@pytest.mark.parametrize("name", CHECKS["SOLVER.LR_SCHEDULER_NAME"].values)
@pytest.mark.parametrize("opts", [(), (*RESCALED,), ("SOLVER.STEPS", ()), ("SOLVER.STEPS", (8,))])
@pytest.mark.parametrize("length", [0, 5, 9])
def test_every_schedule_lasts_to_the_end(name: str, opts: tuple[Any, ...], length: int) -> None:
    end = ("SOLVER.MAX_ITER", 10, "SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.WARMUP_ITERS", length)
    assert highest_rate((*end, *opts)) > 0.0


def highest_rate(opts: tuple[Any, ...]) -> float:
    """Of all iterations, as a run has them."""
    cfg = read_config(COCO, opts)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return float(max(rates))


@pytest.mark.parametrize(
    ("opts", "less_than", "highest"),
    [
        # The warm-up of coco_10pct in a run made shorter: a tenth of its rate.
        ((*RUN, 1000), 600, 0.000999),
        ((*RUN, 600), 600, 0.001),
        ((*RUN, 750, "SOLVER.WARMUP_METHOD", "constant"), 600, 0.001),
        ((*RUN, 1000, "SOLVER.STEPS", (600, 1200)), 600, 0.000999),
        ((*RUN, 1000, "SOLVER.STEPS", ()), 900, 0.00999),
        # It would end at 0.
        ((*RUN, 900, *COSINE), 900, 0.00001),
    ],
)
def test_a_warm_up_that_reaches_to_lower_rates_is_told(
    opts: tuple[Any, ...], less_than: int, highest: float, caplog: pytest.LogCaptureFixture
) -> None:
    assert highest_rate(opts) == pytest.approx(highest, rel=0.02)
    caplog.clear()
    say_schedule(read_config(COCO, opts))
    (message,) = caplog.messages
    assert message.startswith(f"SOLVER.WARMUP_ITERS is {opts[5]}, but ")
    assert f"BASE_LR 0.01, and the highest of the run is {highest_rate(opts):.3g}." in message
    assert f"to less than {less_than}, such as {less_than // 10}." in message


@pytest.mark.parametrize(
    "opts",
    [
        (*RUN, 599),
        (*RUN, 0),
        (*RUN, 899, *RESCALED),
        (*RUN, 899, *COSINE),
        ("SOLVER.STEPS", (300_000,)),
    ],
)
def test_a_warm_up_that_ends_in_time_is_not(
    opts: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    say_schedule(read_config(COCO, opts))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("horizon", "name", "told"),
    [(0.001, "DRE", True), (0.002, "DRE", False), (0.0, "DRE", False), (0.001, "STAC", False)],
)
def test_an_average_over_less_than_an_iteration_is_told(
    horizon: float, name: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    say_schedule(read_config(COCO, (*RUN, 10, "SSOD.EMA.HORIZON", horizon, "SSOD.METHOD", name)))
    assert len(caplog.messages) == told
    for message in caplog.messages:
        assert "SSOD.EMA.HORIZON is 0.001, of SOLVER.MAX_ITER 900 not even one" in message
        assert "Set it to more than 0.0011, or to 0" in message


def test_shipped_configs_have_a_schedule_of_which_nothing_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    paths = [path for path in (ROOT / "configs").rglob("*.yaml") if "METHOD" not in path.stem]
    assert len(paths) > 50
    for path in paths:
        say_schedule(read_config(str(path)))
    assert not caplog.messages
