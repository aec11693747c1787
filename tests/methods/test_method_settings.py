"""Settings of methods: their keys, defaults and bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from dre_ssod.config.checks import check_config
from dre_ssod.config.keys import get_cfg
from dre_ssod.errors import ConfigError
from dre_ssod.methods import METHODS, build_method, method_class
from dre_ssod.methods.mean_teacher import MeanTeacher
from dre_ssod.methods.supervised import Supervised
from dre_ssod.settings import Number, add_keys, keys_of, setting
from tests.factories import tiny_cfg


@pytest.mark.parametrize(
    ("name", "key", "field"),
    [
        ("DRE", "SSOD.SCORE_THRESHOLD", "score_threshold"),
        ("MUM", "SSOD.UNBIASED_TEACHER.SCORE_THRESHOLD", "score_threshold"),
        # The first of three: what advice about the number of labels must name.
        ("SoftTeacher", "SSOD.SOFT_TEACHER.CLS_SCORE", "cls_score"),
    ],
)
def test_a_method_says_which_key_its_threshold_has(name: str, key: str, field: str) -> None:
    cfg = tiny_cfg(**{"SSOD.METHOD": name})
    assert method_class(cfg).threshold_keys()[0] == key
    cfg.merge_from_list([key, 0.123])
    assert getattr(build_method(cfg).settings, field) == 0.123


@pytest.mark.parametrize(
    ("keys", "more", "fewer"),
    [
        ({}, "lower SSOD.SCORE_THRESHOLD", "raise SSOD.SCORE_THRESHOLD"),
        (
            {"SSOD.LABELS.RANK_SHARE": 0.5},
            "raise SSOD.LABELS.RANK_SHARE (at most 1) or lower SSOD.LABELMATCH.MIN_SCORE",
            "lower SSOD.LABELS.RANK_SHARE",
        ),
        (
            {"SSOD.METHOD": "LabelMatch"},
            "lower SSOD.LABELMATCH.MIN_SCORE",
            "raise SSOD.LABELMATCH.MIN_SCORE or lower SSOD.LABELMATCH.RELIABLE_SHARE, by which "
            "fewer of them count as reliable",
        ),
        (
            {"SSOD.METHOD": "SoftTeacher"},
            "lower SSOD.SOFT_TEACHER.CLS_SCORE",
            "raise SSOD.SOFT_TEACHER.CLS_SCORE",
        ),
    ],
)
def test_a_method_says_what_gives_more_labels_or_fewer(
    keys: dict[str, Any], more: str, fewer: str
) -> None:
    cfg = tiny_cfg(**keys)
    method = build_method(cfg)
    assert (method.label_advice(True), method.label_advice(False)) == (more, fewer)
    by_rank = "SSOD.LABELS.RANK_SHARE" in keys or cfg.SSOD.METHOD == "LabelMatch"
    assert method.labels_by_rank(cfg) == by_rank


@pytest.fixture
def registered() -> Iterator[Callable[[type[MeanTeacher]], type[MeanTeacher]]]:
    """Registers a method for one test."""
    names = []

    def register(method: type[MeanTeacher]) -> type[MeanTeacher]:
        METHODS.register(method)
        names.append(method.__name__)
        return method

    yield register
    for name in names:
        METHODS._obj_map.pop(name)


def test_a_new_method_brings_its_keys_and_their_bounds(registered: Any) -> None:
    @registered
    class Sharper(MeanTeacher):
        @dataclass(frozen=True)
        class Settings(MeanTeacher.Settings):
            power: float = setting("SSOD.SHARPER.POWER", 2.0, "gamma.", Number(0.0, 5.0))

    cfg = get_cfg()
    assert cfg.SSOD.SHARPER.POWER == 2.0
    cfg.merge_from_list(["SSOD.METHOD", "Sharper", "SSOD.SHARPER.POWER", 3.0])
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    method = build_method(cfg)
    assert type(method) is Sharper
    assert method.settings.power == 3.0
    assert method.settings.score_threshold == 0.8
    cfg.SSOD.SHARPER.POWER = 6.0
    with pytest.raises(ConfigError, match=r"SSOD\.SHARPER\.POWER is 6\.0.*\[0\.0, 5\.0\]"):
        check_config(cfg, 1)


def test_two_methods_may_not_give_one_key_two_defaults() -> None:
    @dataclass(frozen=True)
    class Other:
        tau: float = setting("SSOD.SCORE_THRESHOLD", 0.7, "tau")

    with pytest.raises(ValueError, match=r"SSOD\.SCORE_THRESHOLD has the default 0\.8 and 0\.7"):
        add_keys(get_cfg(), Other)


@pytest.mark.parametrize("name", [name for name, _ in METHODS])
def test_every_setting_states_a_default_a_meaning_and_valid_bounds(name: str) -> None:
    for key in keys_of(METHODS.get(name).Settings):
        assert key.meaning.endswith(".")
        # Only a switch needs no check.
        assert (key.check is None) == isinstance(key.default, bool)
        assert key.check is None or key.check.refusal(key.default) is None


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHOD = "STAK"
    with pytest.raises(ConfigError, match=r"SSOD\.METHOD is 'STAK'.*'DRE'.*'Supervised'"):
        check_config(cfg, 1)


def test_supervised_has_two_names() -> None:
    for overrides in ({"SSOD.ENABLED": False}, {"SSOD.METHOD": "Supervised"}):
        method = build_method(tiny_cfg(**overrides))
        assert type(method) is Supervised
        assert not method.uses_unlabeled


def test_another_methods_settings_are_not_held_against_this_one() -> None:
    smooth = {"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "smooth_l1"}
    batch_of_8 = {"SOLVER.IMS_PER_BATCH": 20}
    check_config(tiny_cfg(**smooth, **batch_of_8, **{"SSOD.METHOD": "MeanTeacher"}), 1)
    with pytest.raises(ConfigError, match=r"SSOD\.LER\.ENABLED is True"):
        check_config(tiny_cfg(**smooth, **batch_of_8), 1)
