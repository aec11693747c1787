"""What changes over a run: the teacher's decay, and the weight of unsupervised losses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dre_ssod.config.keys import get_cfg
from dre_ssod.methods import METHODS, Clock, build_method
from dre_ssod.methods.mean_teacher import MeanTeacher
from dre_ssod.methods.parts.schedules import ema_decay, horizon_decay
from dre_ssod.structures import UNSUPERVISED
from tests.engine.steps import batch, make_trainer, run
from tests.methods.every import EXPECTED

# Following


@pytest.mark.parametrize(
    ("step", "expected"),
    # 1 - 1 / (t + 1) is 0, 1/2, 2/3, ... and reaches 0.999 at t = 999.
    [(0, 0.0), (1, 1 / 2), (2, 2 / 3), (9, 0.9), (998, 998 / 999), (999, 0.999), (10**6, 0.999)],
)
def test_decay_grows_to_its_bound(step: int, expected: float) -> None:
    assert ema_decay(step, 0.999) == pytest.approx(expected, abs=1e-15)


@given(step=st.integers(0, 10**6), maximum=st.floats(0.0, 1.0))
def test_decay_is_the_formula(step: int, maximum: float) -> None:
    assert ema_decay(step, maximum) == min(maximum, step / (step + 1)) or ema_decay(
        step, maximum
    ) == pytest.approx(step / (step + 1), rel=1e-12)
    assert ema_decay(step, maximum) <= ema_decay(step + 1, maximum) <= maximum


@pytest.mark.parametrize(
    ("iteration", "copies", "expected"),
    [(0, True, 0.0), (3, True, 0.75), (4, True, 0.0), (5, True, 0.5), (4, False, 0.8)],
)
def test_the_decay_starts_again_after_a_burn_in_that_copies(
    iteration: int, copies: bool, expected: float
) -> None:
    method = MeanTeacher(MeanTeacher.Settings(burn_in_copy=copies))
    assert method.decay(Clock(iteration, 4, 100)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("decay", "horizon", "max_iter", "expected"),
    # 0.05 of 600 iterations are 30: 1 - 1 / 30. DECAY stays the bound of a long run.
    [(0.999, 0.0, 600, 0.999), (0.99, 0.05, 600, 29 / 30), (0.99, 0.05, 10**6, 0.99)],
)
@pytest.mark.parametrize(
    "name", sorted(name for name, method in METHODS if "ema_horizon" not in method.unread)
)
def test_the_average_looks_back_no_further_than_a_share_of_the_run(
    name: str, decay: float, horizon: float, max_iter: int, expected: float
) -> None:
    cfg = get_cfg()
    keys = {"METHOD": name, "EMA.DECAY": decay, "EMA.HORIZON": horizon}
    pairs = [word for key, value in keys.items() for word in (f"SSOD.{key}", value)]
    cfg.merge_from_list([*pairs, "SOLVER.MAX_ITER", max_iter])
    # UnbiasedTeacherV2 wants the one, MixPL the other, and no other asks.
    cfg.MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA = True
    cfg.SSOD.STRONG_VIEW.ERASE_COUNT = (0, 0)
    assert build_method(cfg).settings.ema_decay == pytest.approx(expected, rel=1e-12)


def test_a_horizon_of_less_than_an_iteration_copies_the_student() -> None:
    assert horizon_decay(0.1, 5) == 0.0


# Weights


@pytest.mark.parametrize(
    ("iterations", "expected"),
    # Of iterations 4 to 8, after a burn-in of 4.
    [(0, [1.0] * 5), (1, [1.0] * 5), (4, [0.25, 0.5, 0.75, 1.0, 1.0])],
)
@pytest.mark.parametrize("name", sorted(name for name, row in EXPECTED.items() if row.terms))
def test_unsupervised_losses_warm_up_after_the_burn_in_and_labeled_ones_do_not(
    name: str, iterations: int, expected: list[float]
) -> None:
    cfg = get_cfg()
    cfg.SSOD.METHOD, cfg.SSOD.UNSUP_WARMUP_ITERS = name, iterations
    cfg.MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA = True
    cfg.SSOD.STRONG_VIEW.ERASE_COUNT = (0, 0)
    method = build_method(cfg)
    clocks = [Clock(iteration, 4, 100) for iteration in range(4, 9)]
    for term in EXPECTED[name].terms:
        late = Clock(99, 4, 100)
        full = method.weight(term, late)
        assert full > 0.0
        found = [method.weight(term, clock) for clock in clocks]
        assert found == pytest.approx([full * factor for factor in expected])
        labeled = term.removesuffix(UNSUPERVISED)
        assert {method.weight(labeled, clock) for clock in clocks} == {method.weight(labeled, late)}


def test_the_first_steps_of_a_warm_up_learn_as_with_a_lower_beta() -> None:
    """Of four steps the second has half of beta."""
    trainer = make_trainer([batch(0)], lr=0.0, unsup_loss_weight=2.0, unsup_warmup_iters=4)
    half = make_trainer([batch(0)], lr=0.0, unsup_loss_weight=1.0)
    assert run(trainer, (1,))["total_loss"] == run(half, (1,))["total_loss"]
