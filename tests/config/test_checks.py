from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dre_ssod.config.checks import CHOICES, PAIRS, RANGES, ConfigError, check_config, check_pools
from dre_ssod.config.keys import get_cfg

# A box head has no default.
BATCH = ["SOLVER.IMS_PER_BATCH", 20, "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"]


def check(*opts: Any, world_size: int = 1) -> None:
    cfg = get_cfg()
    cfg.merge_from_list([*BATCH, *opts])
    check_config(cfg, world_size)


def refusal(*opts: Any, world_size: int = 1) -> str:
    with pytest.raises(ConfigError) as error:
        check(*opts, world_size=world_size)
    return str(error.value)


def test_the_defaults_pass() -> None:
    check()
    check(world_size=2)
    check(world_size=4)


def default_of(key: str) -> Any:
    value: Any = get_cfg()
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_a_value_that_is_no_choice_is_refused(key: str) -> None:
    default = default_of(key)
    assert default in CHOICES[key]
    wrong = (not default) if isinstance(default, bool) else "no_such_value"
    message = refusal(key, wrong)
    assert message.startswith(f"{key} is {wrong!r}; it must be one of ")
    for choice in CHOICES[key]:
        assert repr(choice) in message


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_every_choice_is_accepted(key: str) -> None:
    for choice in CHOICES[key]:
        # Without the variance branch s_loc has no source.
        check("SSOD.LER.ENABLED", False, "SSOD.PRC.ENABLED", False, key, choice)


@pytest.mark.parametrize("key", sorted(RANGES))
def test_the_bounds_are_valid_and_what_lies_beyond_is_refused(key: str) -> None:
    low, high = RANGES[key]
    kind = type(default_of(key))
    step = 1 if kind is int else 0.001
    for wrong in (kind(low - step), kind(high + step)):
        message = refusal(key, wrong)
        assert message == f"{key} is {wrong!r}; it must be a number in [{low}, {high}]."
    if key != "SOLVER.IMS_PER_BATCH":
        check("SSOD.ENABLED", False, "SOLVER.IMS_PER_BATCH", 10**6, key, kind(low))
        check("SSOD.ENABLED", False, "SOLVER.IMS_PER_BATCH", 10**6, key, kind(high))


@pytest.mark.parametrize("key", [key for key in RANGES if isinstance(default_of(key), float)])
def test_nan_is_refused(key: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_list([*BATCH, key, float("nan")])
    with pytest.raises(ConfigError, match=f"{key} is nan"):
        check_config(cfg, 1)


@pytest.mark.parametrize("key", sorted(PAIRS))
def test_a_pair_is_ordered_inside_its_bounds_and_made_of_numbers(key: str) -> None:
    low, high = PAIRS[key]
    check(key, (low, high))
    for wrong in ((high, low), (low - 1, high), (low, high + 1), (low,), (low, high, high)):
        message = refusal(key, wrong)
        assert message.startswith(f"{key} is {wrong!r}; it must be two numbers")
        assert f"[{low}, {high}]" in message
    assert "two numbers" in refusal(key, ("a", "b"))


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.5, float("nan")])
def test_the_labeled_percentage_lies_above_zero(percent: float) -> None:
    message = refusal("DATASETS.LABELED_PERCENT", percent)
    assert message == f"DATASETS.LABELED_PERCENT is {percent!r}; it must be a number in (0, 100]."


def test_an_unknown_box_transform_names_the_registered_ones() -> None:
    message = refusal("MODEL.ROI_BOX_HEAD.BOX_TRANSFORM", "polar")
    assert message.startswith("MODEL.ROI_BOX_HEAD.BOX_TRANSFORM is 'polar'; it must be one of ")
    assert "'corner'" in message
    assert "'center_size'" in message
    check("MODEL.ROI_BOX_HEAD.BOX_TRANSFORM", "center_size")


@pytest.mark.parametrize(("off", "on"), [("LER", "PRC"), ("PRC", "LER")])
def test_reweighting_needs_the_variance_branch(off: str, on: str) -> None:
    smooth_l1 = ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1")
    message = refusal(*smooth_l1, f"SSOD.{off}.ENABLED", False)
    assert message.startswith(f"SSOD.{on}.ENABLED is True; it must be False while ")
    assert "BBOX_REG_LOSS_TYPE is 'smooth_l1'" in message
    check(*smooth_l1, "SSOD.LER.ENABLED", False, "SSOD.PRC.ENABLED", False)
    # The baseline has no teacher to reweight by.
    check(*smooth_l1, "SSOD.ENABLED", False)


@pytest.mark.parametrize("ratio", [(1,), (1, 4, 2), (0, 4), (1, 0), (1.0, 4.0), ("1", "4")])
def test_the_ratio_is_two_positive_whole_numbers(ratio: tuple[Any, ...]) -> None:
    message = refusal("SSOD.LABELED_TO_UNLABELED", ratio)
    assert message.startswith(f"SSOD.LABELED_TO_UNLABELED is {ratio!r}; it must be two positive")


@pytest.mark.parametrize(
    ("images", "world_size", "steps", "ratio", "unit"),
    [
        (18, 1, 1, (1, 4), 5),
        (20, 3, 1, (1, 4), 15),
        (20, 2, 4, (1, 4), 40),
        (15, 2, 1, (1, 4), 10),
        (9, 1, 1, (1, 1), 2),
    ],
)
def test_the_batch_divides_evenly(
    images: int, world_size: int, steps: int, ratio: tuple[int, int], unit: int
) -> None:
    opts = ("SOLVER.ACCUMULATION_STEPS", steps, "SSOD.LABELED_TO_UNLABELED", ratio)
    message = refusal(*opts, "SOLVER.IMS_PER_BATCH", images, world_size=world_size)
    assert message.startswith(f"SOLVER.IMS_PER_BATCH is {images}; it must be a multiple of {unit}:")
    for part in (f"{world_size} process", f"{steps} accumulation", f"{ratio}"):
        assert part in message
    check(*opts, "SOLVER.IMS_PER_BATCH", 3 * unit, world_size=world_size)


def test_the_baseline_divides_by_processes_and_steps_only() -> None:
    off = ("SSOD.ENABLED", False, "SOLVER.ACCUMULATION_STEPS", 2)
    check(*off, "SOLVER.IMS_PER_BATCH", 6, world_size=3)
    message = refusal(*off, "SOLVER.IMS_PER_BATCH", 8, world_size=3)
    assert "a multiple of 6: 3 process(es) x 2 accumulation step(s)" in message
    assert "LABELED_TO_UNLABELED" not in message


def test_nothing_unlabeled_to_train_on_says_what_to_do() -> None:
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    pools = SimpleNamespace(labeled=[{}], unlabeled=[], classes=["cat", "dog"])
    with pytest.raises(ConfigError, match="no unlabeled images") as error:
        check_pools(cfg, pools)
    for word in ("DATASETS.UNLABELED is ()", "LABELED_PERCENT is 100.0", "SSOD.ENABLED False"):
        assert word in str(error.value)
    cfg.SSOD.ENABLED = False
    check_pools(cfg, pools)


def test_a_class_count_against_the_data_names_the_classes() -> None:
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    pools = SimpleNamespace(labeled=[{}], unlabeled=[{}], classes=["cat", "dog"])
    with pytest.raises(
        ConfigError, match=r"NUM_CLASSES is 80, .* has 2 classes: cat, dog. Set it to 2"
    ):
        check_pools(cfg, pools)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    check_pools(cfg, pools)


def test_a_split_comes_from_a_file_or_from_a_draw() -> None:
    check("DATASETS.SPLIT_FILE", "split.json")
    for key, value, valid in (
        ("DATASETS.LABELED_PERCENT", 10.0, "100"),
        ("DATASETS.LABELED_FOLD", 1, "0"),
    ):
        message = refusal("DATASETS.SPLIT_FILE", "split.json", key, value)
        assert message.startswith(f"{key} is {value!r}; it must be {valid} while ")


@pytest.mark.parametrize("key", ["TEST.VARIANCE_VOTING.ENABLED", "TEST.RANK_BY_QUALITY"])
def test_refined_detections_need_the_variance_branch(key: str) -> None:
    plain = ["SSOD.ENABLED", False, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1"]
    check(key, True)
    check(*plain)
    assert refusal(key, True, *plain).startswith(f"{key} is True; it must be False while")
