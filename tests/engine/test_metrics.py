from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor

from dre_ssod.engine.metrics import ClassCounts, StepMetrics, StepTotals
from dre_ssod.structures import Mean, StudentLosses
from tests.factories import NUM_CLASSES, beta_4, pseudo_labels


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


NONE = (False, False, False)


def exchanged(*batches: StudentLosses, norm: float = 0.0, **options: Any) -> StepTotals:
    metrics = StepMetrics(0.25, torch.device("cpu"))
    for batch in batches:
        metrics.add(batch)
    metrics.add_images(drawn=5, unreadable=1)
    metrics.add_images(drawn=4, unreadable=0)
    return metrics.exchange(
        torch.tensor(norm), options.get("signals", NONE), options.get("tally", {})
    )


def written(*batches: StudentLosses, extra: dict[str, float] | None = None) -> dict[str, float]:
    with EventStorage(0) as storage:
        exchanged(*batches).write(7, beta_4, extra or {})
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
    totals = exchanged(losses({"loss_rpn_cls": 2.0, "loss_bad": 1.0}), broken)
    assert totals.broken_losses.keys() == {"loss_bad"}
    assert totals.losses["loss_rpn_cls"] == 1.5


def test_a_negative_loss_is_no_error() -> None:
    assert written(losses({"loss_box_reg": -3.0}))["total_loss"] == -3.0


def test_all_that_a_step_has_to_say_comes_at_once_each_with_a_name_and_type_of_its_own() -> None:
    tally = {"by_class": torch.tensor([[1, 2], [3, 4]]), "images": torch.tensor(7.0)}
    totals = exchanged(
        losses({"loss_cls": 1.0}, figures={"images": [5.0]}),
        norm=2.5,
        signals=(False, True, False),
        tally=tally,
    )
    assert totals.losses == {"loss_cls": 1.0}
    assert totals.figures == {"images": 5.0}
    assert totals.gradient_norm == 2.5
    assert (totals.drawn, totals.unreadable) == (9, 1)
    assert totals.signals == (0, 1, 0)
    assert totals.tallies.keys() == tally.keys()
    for name, values in tally.items():
        assert torch.equal(totals.tallies[name], values.float())
    with EventStorage(0) as storage:
        totals.write(0, beta_4, {})
        assert storage.latest()["ssod/gradient_norm"] == (2.5, 0)
        assert storage.latest().keys() == {
            *("rank_data_time", "data_time", "total_loss", "loss_cls"),
            *("ssod/images", "ssod/gradient_norm"),
        }


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_no_figure(norm: float) -> None:
    totals = exchanged(losses({"loss_cls": 1.0}), norm=norm)
    assert not math.isfinite(totals.gradient_norm)
    with EventStorage(0) as storage:
        totals.write(0, beta_4, {})
        assert "ssod/gradient_norm" not in storage.latest()


def test_metrics_hold_no_graph() -> None:
    batch = losses({"loss_cls": 1.0}, figures={"sigma": [1.0]})
    metrics = StepMetrics(0.0, torch.device("cpu"))
    metrics.add(batch)
    for mean in [*metrics._losses.values(), *metrics._figures.values()]:
        assert not mean.total.requires_grad
        assert not mean.count.requires_grad


def test_more_boxes_are_counted_than_a_float32_can_tell_apart() -> None:
    counts = ClassCounts.none(NUM_CLASSES, torch.device("cpu"))
    counts.boxes += 2**24
    one = pseudo_labels()[1:2]
    counts.add([one, one])
    assert counts.images == 2
    assert counts.boxes.tolist() == [2**24, 2**24 + 2, 2**24]
