"""MixPL in training: what a step teaches, and which views it leaves for later ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dre_ssod.engine.step import SemiSupervisedStep
from dre_ssod.errors import ConfigError
from dre_ssod.methods import Clock, build_method
from dre_ssod.methods.mean_teacher import MeanTeacher
from dre_ssod.methods.mix_pl import MixPL
from tests.engine.steps import SAMPLE_ALL, make_trainer, run
from tests.engine.steps import batch as make_batch
from tests.factories import tiny_cfg
from tests.methods.test_mix_pl import PLAIN


def _trainer(method: MeanTeacher, steps: int = 1, lr: float = 1.0) -> SemiSupervisedStep:
    trainer = make_trainer([make_batch(n, unlabeled=2) for n in range(steps)], lr, SAMPLE_ALL)
    trainer.method = method
    return trainer


def test_views_that_are_erased_beforehand_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"STRONG_VIEW\.ERASE_COUNT is \(1, 4\).* \(0, 0\), as in"
    ):
        build_method(tiny_cfg(**{"SSOD.METHOD": "MixPL"}))


def _settings(**settings: Any) -> MixPL.Settings:
    chosen = {"score_threshold": 0.3, "unsup_loss_weight": 2.0, **settings}
    return replace(MixPL.Settings(), **chosen)


def _step(**settings: Any) -> dict[str, Tensor]:
    trainer = _trainer(MixPL(_settings(**settings)))
    run(trainer)
    return dict(trainer.model.state_dict())


def test_a_gated_step_teaches_what_labels_alone_teach() -> None:
    # Every label counts as erased, so there is none.
    silent = _step(max_erased=0.0)
    weightless = _step(max_erased=0.0, unsup_loss_weight=0.0)
    for name, tensor in silent.items():
        torch.testing.assert_close(tensor, weightless[name])


def test_until_there_are_enough_older_views_it_is_a_mean_teacher_on_erased_views() -> None:
    plain = MeanTeacher(MeanTeacher.Settings(score_threshold=0.3, unsup_loss_weight=2.0))
    expected = run(_trainer(plain))
    assert expected["loss_cls_unsup"] > 0.0
    found = run(_trainer(MixPL(_settings(**PLAIN))))
    for name, value in expected.items():
        if "loss" in name:
            assert found[name] == pytest.approx(value, rel=1e-5), name
    erased = run(_trainer(MixPL(_settings(erase_count=(19, 19), erase_size=0.5, max_erased=2.0))))
    assert erased["loss_cls_unsup"] != expected["loss_cls_unsup"]


def test_views_are_kept_as_they_were_before_they_were_mixed() -> None:
    trainer = _trainer(MixPL(_settings(older_views=4)), steps=3, lr=0.0)
    run(trainer, iterations=range(3))
    (views,) = trainer.method.state_dict()["older_views"]["processes"]
    strong = [
        sample.strong.image for n in (1, 2) for sample in make_batch(n, unlabeled=2).unlabeled
    ]
    assert all(torch.equal(view["image"], image) for view, image in zip(views, strong, strict=True))
    assert any(len(view["boxes"]) for view in views)


def test_each_pass_keeps_its_views_also_of_a_step_that_is_skipped() -> None:
    """As the code does, which knows neither: what the student has seen is kept."""
    trainer = make_trainer(
        [make_batch(n, unlabeled=2) for n in range(2)],
        overrides=SAMPLE_ALL,
        accumulation_steps=2,
        skip_nonfinite=True,
    )
    trainer.method = MixPL(_settings(older_views=4, **PLAIN))
    next(trainer.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    assert run(trainer)["ssod/skipped_steps"] == 1
    assert trainer.method.is_warm


def test_the_teacher_follows_at_every_third_iteration() -> None:
    method = MixPL(replace(MixPL.Settings(), ema_decay=0.9998))
    found = [method.decay(Clock(t, 0, 100)) for t in range(9)]
    assert [t for t, decay in enumerate(found) if decay is not None] == [2, 5, 8]
    assert found[2] == pytest.approx(1 - 4 / 6)
    assert found[8] == pytest.approx(1 - 4 / 12)
    # max(.0002, 4 / (4 + t)) is .0002 from t = 19996 on.
    assert method.decay(Clock(20000, 0, 10**6)) == pytest.approx(0.9998)


def test_a_burn_in_ends_with_a_copy() -> None:
    method = MixPL(MixPL.Settings())
    found = [method.decay(Clock(t, 4, 100)) for t in range(3, 8)]
    assert found == [None, 0.0, None, pytest.approx(1 - 4 / 6), None]
