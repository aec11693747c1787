"""What of its config a resumed run takes up."""

from __future__ import annotations

import logging

import pytest
from detectron2.config import CfgNode

from dre_ssod.errors import ConfigError
from dre_ssod.methods import METHODS, Clock
from dre_ssod.runs.resuming import check_burn_in, say_changes, settings_of, settle
from tests.factories import tiny_cfg


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("dre_ssod"), "propagate", True)


def test_the_same_config_is_taken_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    cfg = tiny_cfg()
    moved = tiny_cfg(OUTPUT_DIR="elsewhere", **{"DATALOADER.NUM_WORKERS": 7})
    with caplog.at_level("INFO", "dre_ssod"):
        assert settle(settings_of(cfg), moved) == moved
        for has_ended in (False, True):
            say_changes(settings_of(cfg), moved, "a.pth", has_ended)
    assert not caplog.text


def test_what_is_taken_up_is_said(caplog: pytest.LogCaptureFixture) -> None:
    saved = settings_of(tiny_cfg(**{"SOLVER.BASE_LR": 0.001, "SOLVER.STEPS": (5,)}))
    cfg = tiny_cfg(**{"SOLVER.BASE_LR": 0.004, "SOLVER.STEPS": (5, 7)})
    with caplog.at_level("INFO", "dre_ssod"):
        assert settle(saved, cfg).SOLVER.BASE_LR == 0.004
        say_changes(saved, cfg, "a.pth", has_ended=False)
    assert "In use from here on: SOLVER.BASE_LR 0.004; it was 0.001" in caplog.text
    assert "SOLVER.STEPS [5, 7]; it was [5]" in caplog.text
    caplog.clear()
    say_changes(saved, cfg, "a.pth", has_ended=True)
    [said] = [record.getMessage() for record in caplog.records]
    assert "Without effect: SOLVER.BASE_LR 0.004; it was 0.001, SOLVER.STEPS [5, 7]; it w" in said
    assert "--eval-only MODEL.WEIGHTS a.pth" in said


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [("SEED", 7, 8), ("MODEL.WEIGHTS", "a.pth", ""), ("MODEL.TIMM.WEIGHTS", "", "b.pth")],
)
def test_what_only_a_start_uses_stays_and_is_said(
    caplog: pytest.LogCaptureFixture, key: str, before: object, now: object
) -> None:
    settled = settle(settings_of(tiny_cfg(**{key: before})), tiny_cfg(**{key: now}))
    assert settings_of(settled)[key] == before
    assert (
        f"{key} is {now!r}, but a resumed run does not use it: it keeps {before!r}" in caplog.text
    )
    assert settled.is_frozen()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ROI_BOX_HEAD.FC_DIM", 9),
        # These fit every tensor of the checkpoint, and mean something else.
        ("MODEL.PIXEL_STD", [2.0, 2.0, 2.0]),
        ("INPUT.FORMAT", "RGB"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 1.0)),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.9, 1.0, 1.1]]),
    ],
)
def test_what_contradicts_the_model_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{key} is .*, which does not fit the model .*: it was"):
        settle(settings_of(tiny_cfg()), tiny_cfg(**{key: value}))


def test_a_key_that_the_checkpoint_does_not_know_had_its_default() -> None:
    saved = settings_of(tiny_cfg())
    del saved["MODEL.RPN.BBOX_REG_WEIGHTS"]
    settle(saved, tiny_cfg())
    with pytest.raises(ConfigError, match="BBOX_REG_WEIGHTS"):
        settle(saved, tiny_cfg(**{"MODEL.RPN.BBOX_REG_WEIGHTS": (2.0, 1.0, 1.0, 1.0)}))


def _burn_in(name: str, iterations: int, copy: bool = True) -> CfgNode:
    enabled = name != "Supervised"
    keys = {"SSOD.METHOD": name if enabled else "DRE", "SSOD.ENABLED": enabled}
    return tiny_cfg(**keys, **{"SSOD.BURN_IN_ITERS": iterations, "SSOD.BURN_IN_COPY": copy})


@pytest.mark.parametrize(
    ("before", "now", "done", "least"),
    [
        # The last step of the burn-in copies, or the first after it.
        (_burn_in("UnbiasedTeacher", 9), "UnbiasedTeacher", 5, 6),
        (_burn_in("UnbiasedTeacherV2", 9), "CSTLike", 5, 6),
        (_burn_in("UnbiasedTeacher", 9), "MUM", 5, 5),
        (_burn_in("DRE", 9), "DRE", 5, 5),
        # The copy has been made.
        (_burn_in("UnbiasedTeacher", 5), "RobustTeacher", 5, 0),
        (_burn_in("UnbiasedTeacher", 5), "MeanTeacher", 5, 0),
        # Another method takes over where the burn-in ended.
        (_burn_in("DRE", 5), "UnbiasedTeacher", 5, 6),
        (_burn_in("Supervised", 5), "UnbiasedTeacher", 5, 6),
        (_burn_in("UnbiasedTeacher", 5, copy=False), "UnbiasedTeacher", 5, 6),
        # A burn-in that is over, or none.
        (_burn_in("UnbiasedTeacher", 4), "UnbiasedTeacher", 5, 0),
        (_burn_in("DRE", 0), "DRE", 5, 0),
        (_burn_in("DRE", 9), "Supervised", 5, 0),
    ],
)
def test_a_burn_in_lasts_as_long_as_the_copy_at_its_end_needs(
    before: CfgNode, now: str, done: int, least: int
) -> None:
    saved = settings_of(before)
    check_burn_in(saved, _burn_in(now, least), done, "a.pth")
    if least:
        valid = f"BURN_IN_ITERS is {least - 1}; it must be at least {least}: a.pth is of a burn-in"
        with pytest.raises(ConfigError, match=valid):
            check_burn_in(saved, _burn_in(now, least - 1), done, "a.pth")


def test_a_teacher_that_waits_for_the_copy_gets_it() -> None:
    saved = settings_of(_burn_in("UnbiasedTeacher", 9))
    for name in ("UnbiasedTeacher", "MeanTeacher"):
        with pytest.raises(ConfigError, match="BURN_IN_COPY is False; it must be True: in the bur"):
            check_burn_in(saved, _burn_in(name, 9, copy=False), 5, "a.pth")
        check_burn_in(saved, _burn_in(name, 9, copy=False), 9, "a.pth")
    averaged = settings_of(_burn_in("DRE", 9))
    check_burn_in(averaged, _burn_in("DRE", 9, copy=False), 5, "a.pth")
    # Without a copy there is none to miss.
    check_burn_in(averaged, _burn_in("DRE", 1, copy=False), 5, "a.pth")


@pytest.mark.parametrize("name", sorted(name for name, _ in METHODS))
def test_a_method_says_when_it_copies(name: str) -> None:
    """``copies_early`` is what its ``decay`` does, where it does not copy at every step."""
    method = METHODS.get(name).from_config(tiny_cfg())
    steps = [method.decay(Clock(iteration, 5, 20)) for iteration in range(20)]
    copies = [iteration for iteration in range(1, 20) if steps[iteration] == 0.0]
    if len(copies) < 19:
        assert copies == [4 if method.copies_early else 5]
