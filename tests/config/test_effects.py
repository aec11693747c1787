"""Keys that a method does not read: declared as they are, refused or named, never passed over."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import pytest
from detectron2.config import CfgNode

from dre_ssod.config.effects import (
    _SWITCHES,
    OF_UNLABELED,
    OF_VARIANCE,
    _is_read,
    check_effects,
    say_unread,
    unread_keys,
)
from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import leaves, read_config
from dre_ssod.errors import ConfigError
from dre_ssod.methods import METHODS, build_method
from dre_ssod.settings import keys_of
from tests import ROOT

NAMES = sorted(name for name, _ in METHODS)
VIEW_KEYS = [key for key, _ in leaves(get_cfg().SSOD, "SSOD.") if "_VIEW." in key]


def config_of(name: str, *opts: Any) -> CfgNode:
    return read_config(str(ROOT / "configs" / "methods" / f"{name}.yaml"), opts)


def unread(cfg: CfgNode) -> set[str]:
    return {found.key for found in unread_keys(cfg)}


def other_than(value: Any) -> Any:
    """Another valid value of a key."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple | list):
        return type(value)(other_than(number) for number in value)
    if isinstance(value, str):
        return f"{value}x"
    return type(value)(value / 2) if value else type(value)(1)


def views_of(cfg: CfgNode) -> list[Any]:
    """The recipes by which a method makes the views that a run of it draws."""
    method = build_method(cfg)
    labeled, unlabeled = method.mappers(cfg)
    return [labeled.recipe, *(unlabeled.drawn if method.uses_unlabeled else ())]


@pytest.mark.parametrize("name", NAMES)
def test_a_key_of_a_view_changes_the_views_or_is_named(name: str) -> None:
    cfg, defaults = config_of(name), get_cfg().SSOD
    groups = {key.split(".")[1] for key in VIEW_KEYS}
    cfg.SSOD.update({group: defaults[group].clone() for group in groups})
    # MixPL refuses another value.
    fixed = {"SSOD.STRONG_VIEW.ERASE_COUNT": (0, 0)} if name == "MixPL" else {}
    cfg.merge_from_list([word for pair in fixed.items() for word in pair])
    before = views_of(cfg)
    for key in VIEW_KEYS:
        _, group, last = key.split(".")
        changed = cfg.clone()
        changed.SSOD[group][last] = other_than(defaults[group][last])
        if key in fixed:
            with pytest.raises(ConfigError, match=key):
                build_method(changed)
            continue
        assert (views_of(changed) == before) == (unread(changed) == {key}), key
        assert unread(changed) <= {key}


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_other_methods_are_named_and_its_own_are_not(name: str) -> None:
    method = METHODS.get(name)
    own = {key.name for key in keys_of(method.Settings)}
    every = {key.name: key for _, other in METHODS for key in keys_of(other.Settings)}
    cfg = get_cfg()
    cfg.SSOD.METHOD = name
    for key, found in every.items():
        *groups, last = key.split(".")
        node = cfg
        for group in groups:
            node = node[group]
        node[last] = other_than(found.default)
    # Off, they switch off others of the method.
    cfg.SSOD.LER.ENABLED = "SSOD.LER.ENABLED" in own
    cfg.SSOD.RPL_LIKE.BY_QUALITY = "SSOD.RPL_LIKE.BY_QUALITY" in own
    cfg.SSOD.BURN_IN_ITERS = 2
    assert unread(cfg) >= every.keys() - own
    # What it inherits and has no use for; tests/methods/test_every_method.py sees what it reads.
    assert len(unread(cfg) & own) == len(method.unread)


def test_without_unlabeled_images_what_is_about_them_is_named() -> None:
    opts = [word for key in sorted(OF_UNLABELED) for word in (key, other_than(default_of(key)))]
    assert unread(config_of("Supervised", *opts)) == OF_UNLABELED
    assert unread(config_of("MeanTeacher", *opts)) == set()


def test_keys_of_the_variance_are_named_where_the_box_head_has_none() -> None:
    pairs = {key: other_than(default_of(key)) for key in sorted(OF_VARIANCE)}
    words = [word for pair in pairs.items() for word in pair]
    for loss, expected in (("kl", set()), ("smooth_l1", set(OF_VARIANCE))):
        opts = ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", loss, *words)
        assert unread(config_of("MeanTeacher", *opts)) == expected
    with pytest.raises(ConfigError, match=r"BETA_NLL 1\.0 \(for a variance branch, which BBOX"):
        check_effects(config_of("SoftTeacher", *words), words[::2])


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        (
            "DRE",
            ("SSOD.LABELMATCH.WINDOW", 400),
            r"SSOD.LABELMATCH.WINDOW 400 \(SSOD.LABELS.RANK_SHARE is 0.0\)",
        ),
        (
            "DRE",
            ("SSOD.STRONG_VIEW.MAX_ROTATE", 5.0, "SSOD.STRONG_VIEW.GEOMETRIC", False),
            "GEOMETRIC is False",
        ),
        ("DRE", ("TEST.VARIANCE_VOTING.SIGMA_T", 0.1), "ENABLED is False"),
        ("DRE", ("TEST.PSEUDO_LABEL_IMAGES", 10), "PSEUDO_LABEL_SET is ''"),
        ("MeanTeacher", ("SOLVER.AMP.DTYPE", "bfloat16"), "AMP.ENABLED is False"),
        ("DRE", ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"), "CLIP_GRADIENTS.ENABLED is False"),
        ("DRE", ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 5.0), "CLIP_GRADIENTS.ENABLED is False"),
        ("DRE", ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", 1.0), "CLIP_GRADIENTS.ENABLED is False"),
        ("DRE", ("SSOD.BURN_IN_COPY", False), "SSOD.BURN_IN_ITERS is 0"),
        (
            "DRE",
            ("SSOD.QUALITY_POWER", 4.0, "SSOD.LER.ENABLED", False, "SSOD.PRC.ENABLED", False),
            "LER.ENABLED is False and SSOD.PRC.ENABLED is False",
        ),
        (
            "DRE",
            ("SSOD.STRONG_VIEW.ERASE_SIZE", (0.1, 0.2), "SSOD.STRONG_VIEW.ERASE_COUNT", (0, 0)),
            r"ERASE_COUNT is (\(0, 0\)|\[0, 0\])",
        ),
        ("MixPL", ("SSOD.STRONG_VIEW.ERASE_SIZE", (0.1, 0.2)), "STRONG_VIEW.ERASE_COUNT is "),
        (
            "InstantTeachingStar",
            ("SSOD.INSTANT_TEACHING.MIXUP", 0.2, "SSOD.INSTANT_TEACHING.MIX", 0.0),
            "MIX is 0.0",
        ),
        ("MUM", ("SSOD.MUM.RAMP_START", 0.2, "SSOD.MUM.RAMP_ITERS", 0), "RAMP_ITERS is 0"),
        (
            "RPLLike",
            (
                *("SSOD.RPL_LIKE.MOMENTUM", 0.9, "SSOD.RPL_LIKE.THRESHOLD_POWER", 0.0),
                *("SSOD.RPL_LIKE.LOSS_POWER", 0.0),
            ),
            "THRESHOLD_POWER is 0.0 and SSOD.RPL_LIKE.LOSS_POWER is 0.0",
        ),
    ],
)
def test_what_depends_on_a_switch_that_is_off_is_named(
    name: str, words: tuple[Any, ...], reason: str
) -> None:
    cfg = config_of(name, *words)
    assert words[0] in unread(cfg)
    with pytest.raises(ConfigError, match=reason):
        check_effects(cfg, words[::2])


@pytest.mark.parametrize("key", sorted(key for key in _SWITCHES if key.startswith("SSOD.")))
def test_every_such_key_is_named_with_its_switch_off_and_read_with_it_on(key: str) -> None:
    switches = _SWITCHES[key]
    name = next(
        name
        for name in NAMES
        if all(_is_read(of_switch, METHODS.get(name)) for of_switch in (key, *switches))
    )
    states = []
    for is_on in (False, True):
        cfg = config_of("DRE", "SSOD.METHOD", name, key, other_than(default_of(key)))
        for switch in switches:
            default = default_of(switch)
            off = (0, 0) if isinstance(default, tuple) else type(default)(0)
            cfg.merge_from_list([switch, (default or other_than(default)) if is_on else off])
        states.append(key in unread(cfg))
    assert states == [True, False]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DRE", ("SSOD.LABELMATCH.WINDOW", 400, "SSOD.LABELS.RANK_SHARE", 0.8)),
        # Which has no such switch.
        ("LabelMatch", ("SSOD.LABELMATCH.WINDOW", 400)),
        ("DRE", ("SSOD.QUALITY_POWER", 4.0, "SSOD.LER.ENABLED", False)),
        (
            "DRE",
            ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 5.0, "SOLVER.CLIP_GRADIENTS.ENABLED", True),
        ),
        ("DRE", ("SSOD.BURN_IN_COPY", False, "SSOD.BURN_IN_ITERS", 2)),
        ("DRE", ("TEST.VARIANCE_VOTING.SIGMA_T", 0.1, "TEST.VARIANCE_VOTING.ENABLED", True)),
    ],
)
def test_what_depends_on_a_switch_that_is_on_is_not(name: str, words: tuple[Any, ...]) -> None:
    assert not unread(config_of(name, *words))


def test_a_burn_in_that_is_not_there_cannot_be_kept() -> None:
    words = ("SSOD.BURN_IN_KEPT", True)
    assert unread(config_of("DRE", *words)) == {words[0]}
    assert not unread(config_of("DRE", *words, "SSOD.BURN_IN_ITERS", 2))


def test_a_draw_and_a_source_that_are_not_there_leave_their_keys_without_effect() -> None:
    fold = ("DATASETS.LABELED_FOLD", 3)
    assert unread(config_of("DRE", *fold)) == {fold[0]}
    assert not unread(config_of("DRE", *fold, "DATASETS.LABELED_PERCENT", 10))
    with pytest.raises(ConfigError, match=r"LABELED_FOLD 3 \(DATASETS.LABELED_PERCENT is 100"):
        check_effects(config_of("DRE", *fold), fold[:1])
    both = ("DATASETS.UNLABELED_OVERLAP", True)
    assert unread(config_of("DRE", *both)) == {both[0]}
    assert not unread(config_of("DRE", *both, "DATASETS.UNLABELED", "('folder://a',)"))


OF_TIMM = ("MODEL.TIMM.NAME", "resnet18")
OF_RESNETS = ("MODEL.RESNETS.DEPTH", 101)
FROZEN = ("MODEL.BACKBONE.FREEZE_AT", 0)


@pytest.mark.parametrize("words", [OF_TIMM, OF_RESNETS, FROZEN])
@pytest.mark.parametrize("kind", ["timm_fpn", "resnet_fpn", "regnet"])
@pytest.mark.parametrize("base", ["coco_10pct", "bccd_10pct"])
def test_keys_of_another_kind_of_backbone_are_named(
    base: str, kind: str, words: tuple[Any, ...]
) -> None:
    builder = f"build_{kind}_backbone"
    before = read_config(f"{ROOT}/configs/{base}.yaml", ["MODEL.BACKBONE.NAME", builder])
    cfg = before.clone()
    cfg.merge_from_list(list(words))
    is_other = {"timm_fpn": words != OF_TIMM, "resnet_fpn": words == OF_TIMM}.get(kind, False)
    assert unread(cfg) - unread(before) == (set(words[:1]) if is_other else set())
    why = rf"{words[0]} {words[1]!r} \(MODEL.BACKBONE.NAME is '{builder}'"
    for trains in (True, False):
        with pytest.raises(ConfigError, match=why) if is_other else nullcontext():
            check_effects(cfg, words[::2], trains)


def test_the_baseline_reads_tau_where_its_labels_are_measured() -> None:
    words = ("SSOD.SCORE_THRESHOLD", 0.6)
    assert unread(config_of("Supervised", *words)) == {words[0]}
    assert not unread(config_of("Supervised", *words, "TEST.PSEUDO_LABEL_SET", "some_set"))
    others = ("SSOD.UNSUP_LOSS_WEIGHT", 1.0, "TEST.PSEUDO_LABEL_SET", "some_set")
    assert unread(config_of("Supervised", *others)) == {others[0]}
    assert words[0] in unread(config_of("MUM", *words, "TEST.PSEUDO_LABEL_SET", "some_set"))


def default_of(key: str) -> Any:
    return dict(leaves(get_cfg()))[key]


def test_on_the_command_line_they_are_refused() -> None:
    words = ["SSOD.STRONG_VIEW.MAX_ROTATE", 5.0, "SSOD.SCORE_THRESHOLD", 0.6]
    cfg = config_of("MUM", *words)
    with pytest.raises(ConfigError) as error:
        check_effects(cfg, words[::2])
    message = str(error.value)
    assert message.startswith("the method MUM does not read ")
    assert "SSOD.STRONG_VIEW.MAX_ROTATE 5.0" in message
    assert (
        "SSOD.SCORE_THRESHOLD 0.6 (SSOD.UNBIASED_TEACHER.SCORE_THRESHOLD is read in its place)"
        in message
    )
    # A file's are not, nor those of which the method reads each, nor the baseline's.
    check_effects(cfg, ["SSOD.BURN_IN_ITERS"])
    check_effects(config_of("MeanTeacher", *words), words[::2])
    check_effects(config_of("MUM", *words, "SSOD.ENABLED", False), words[::2])


@pytest.mark.parametrize(
    ("words", "matters"),
    [
        # For a training of the baseline, and for what evaluates a model.
        (("MODEL.ROI_BOX_HEAD.BETA_NLL", 1.0), (True, True)),
        (("SSOD.RESCALE_LOCALIZATION_QUALITY", True), (True, True)),
        (("TEST.VARIANCE_VOTING.SIGMA_T", 0.1), (True, True)),
        (("SOLVER.AMP.DTYPE", "bfloat16"), (True, False)),
        (("SSOD.STRONG_VIEW.MAX_ROTATE", 5.0, "SSOD.STRONG_VIEW.GEOMETRIC", False), (False, False)),
    ],
)
def test_keys_of_a_model_matter_to_the_baseline_and_where_nothing_is_trained(
    words: tuple[Any, ...], matters: tuple[bool, bool]
) -> None:
    for name, trains, refused in (
        ("Supervised", True, matters[0]),
        ("SoftTeacher", False, matters[1]),
    ):
        with pytest.raises(ConfigError, match=words[0]) if refused else nullcontext():
            check_effects(config_of(name, *words), words[::2], trains)


@pytest.mark.parametrize(
    ("name", "level"), [("UnbiasedTeacher", logging.WARNING), ("Supervised", logging.INFO)]
)
def test_those_of_files_are_named_once(
    name: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = ROOT / "configs" / "bccd_10pct.yaml"
    say_unread(read_config(f"{data},{ROOT / 'configs' / 'methods' / f'{name}.yaml'}"))
    (record,) = caplog.records
    assert record.levelno == level
    message = record.getMessage()
    assert message.startswith(f"The method {name} does not read these keys, which have no effect: ")
    assert "SSOD.STRONG_VIEW.MAX_ROTATE 0.0, SSOD.STRONG_VIEW.MAX_SHEAR 0.0" in message
    caplog.clear()
    say_unread(read_config(str(data)))
    assert not caplog.records


def test_shipped_configs_set_nothing_without_effect() -> None:
    folders = ("published", "methods", "recipes", "ablations")
    files = [path for folder in folders for path in (ROOT / "configs" / folder).glob("*.yaml")]
    files += (ROOT / "configs").glob("*.yaml")
    # A base without a method of its own.
    files.remove(ROOT / "configs" / "published" / "Base-STAC-COCO.yaml")
    assert {str(path): unread(read_config(str(path))) for path in files} == {
        str(path): set() for path in files
    }
