from __future__ import annotations

from typing import Any

import pytest

from dre_ssod.config.checks import CHECKS as TABLE
from dre_ssod.config.checks import Unused, check_config
from dre_ssod.config.keys import get_cfg
from dre_ssod.errors import ConfigError
from dre_ssod.methods import METHODS
from dre_ssod.settings import Number, Numbers, OneOf, Registered

# Of several kinds, each with its own bounds.
CHECKS: dict[str, Any] = TABLE
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


def test_a_burn_in_that_leaves_no_iteration_with_unlabeled_images_is_refused() -> None:
    run = ("SSOD.BURN_IN_ITERS", 100, "SOLVER.MAX_ITER")
    message = refusal(*run, 100)
    assert "SSOD.BURN_IN_ITERS is 100; it must be less than SOLVER.MAX_ITER, 100" in message
    assert "SSOD.ENABLED False" in message
    check(*run, 101)
    check(*run, 100, "SSOD.ENABLED", False)


def test_a_warm_up_that_the_run_does_not_finish_is_refused() -> None:
    run = ("SOLVER.MAX_ITER", 100, "SSOD.BURN_IN_ITERS", 40, "SSOD.UNSUP_WARMUP_ITERS")
    message = refusal(*run, 61)
    assert "SSOD.UNSUP_WARMUP_ITERS is 61; it must be at most the 60 iterations that" in message
    check(*run, 60)
    check(*run, 61, "SSOD.ENABLED", False)


def test_the_defaults_pass() -> None:
    check()
    check(world_size=2)
    check(world_size=4)


def default_of(key: str) -> Any:
    value: Any = get_cfg()
    for part in key.split("."):
        value = value[part]
    return value


def keys_of(kind: type) -> list[str]:
    found = sorted(key for key, check in CHECKS.items() if isinstance(check, kind))
    assert found
    return found


@pytest.mark.parametrize("key", keys_of(OneOf))
def test_a_value_that_is_no_choice_is_refused(key: str) -> None:
    default, choices = default_of(key), CHECKS[key].values
    assert default in choices
    wrong = {bool: not default, int: 99}.get(type(default), "no_such_value")
    message = refusal(key, wrong)
    assert message.startswith(f"{key} is {wrong!r}; it must be one of ")
    for choice in choices:
        assert repr(choice) in message


@pytest.mark.parametrize("key", keys_of(OneOf))
def test_every_choice_is_accepted(key: str) -> None:
    for choice in CHECKS[key].values:
        # Without the variance branch s_loc has no source.
        check("SSOD.LER.ENABLED", False, "SSOD.PRC.ENABLED", False, key, choice)


@pytest.mark.parametrize("key", keys_of(Unused))
def test_what_has_no_use_stays_unset(key: str) -> None:
    unset = default_of(key)
    wrong = 8 if unset == 0 else [["bbox", "AP", 40.0, 0.5]]
    check(key, unset)
    message = refusal(key, wrong)
    assert message == f"{key} is {wrong!r}; it must be {unset!r}: {CHECKS[key].instead}."


def test_an_empty_tuple_is_as_good_as_an_empty_list() -> None:
    check("TEST.EXPECTED_RESULTS", ())


@pytest.mark.parametrize("device", ["gpu", "mps", "xpu", "meta"])
def test_a_device_is_a_cpu_or_a_gpu(device: str) -> None:
    check("MODEL.DEVICE", "cpu")
    check("MODEL.DEVICE", "cuda")
    message = refusal("MODEL.DEVICE", device)
    assert message.startswith(f"MODEL.DEVICE is {device!r}; it must be 'cpu', 'cuda' or one GPU")


@pytest.mark.parametrize("key", keys_of(Number))
def test_the_bounds_are_valid_and_what_lies_beyond_is_refused(key: str) -> None:
    bounds = CHECKS[key]
    low, high = bounds.low, bounds.high
    kind = type(default_of(key))
    step = 1 if kind is int else 0.001
    for wrong in (kind(low - step), kind(high + step)):
        message = refusal(key, wrong)
        bracket = "(" if bounds.positive else "["
        assert message == f"{key} is {wrong!r}; it must be a number in {bracket}{low}, {high}]."
    if key != "SOLVER.IMS_PER_BATCH":
        for right in (step if bounds.positive else low, high):
            check("SSOD.ENABLED", False, "SOLVER.IMS_PER_BATCH", 10**6, key, kind(right))


@pytest.mark.parametrize("key", [k for k in keys_of(Number) if isinstance(default_of(k), float)])
def test_nan_is_refused(key: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_list([*BATCH, key, float("nan")])
    with pytest.raises(ConfigError, match=f"{key} is nan"):
        check_config(cfg, 1)


@pytest.mark.parametrize("key", keys_of(Numbers))
def test_several_numbers_are_counted_and_each_lies_inside_the_bounds(key: str) -> None:
    bounds, default = CHECKS[key], default_of(key)
    check(key, default)
    usual = tuple(default) or (5,)
    wrongs = [(*usual[:-1], bounds.low - 1), (*usual[:-1], bounds.high + 1), ("a",) * len(usual)]
    if bounds.fewest:
        wrongs.append(usual[: bounds.fewest - 1])
    if bounds.most is not None:
        wrongs.append((*usual, usual[-1]))
    if bounds.whole:
        wrongs.append(tuple(n + 0.5 for n in usual))
    for wrong in wrongs:
        message = refusal(key, type(default)(wrong))
        assert message.startswith(f"{key} is {type(default)(wrong)!r}; it must be ")
        assert f"[{bounds.low}, {bounds.high}]" in message


def test_numbers_that_must_rise_do() -> None:
    for key in ("ERASE_COUNT", "ERASE_SIZE"):
        check(f"SSOD.STRONG_VIEW.{key}", (1, 1))
        assert "smallest first" in refusal(f"SSOD.STRONG_VIEW.{key}", (1, 0))
    check("SOLVER.STEPS", (10, 20))
    for wrong in ((20, 10), (10, 10)):
        assert "in rising order, each once" in refusal("SOLVER.STEPS", wrong)


def test_a_range_of_sizes_is_a_rising_pair_and_a_choice_is_not() -> None:
    for sides in ((800,), (800, 400), (400, 600, 800)):
        key = "INPUT.MIN_SIZE_TRAIN"
        assert refusal(key, sides).startswith(f"{key} is {sides}; it must be (smallest, largest)")
        check(key, sides, "INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice")


@pytest.mark.parametrize("view", ["LABELED_VIEW", "STRONG_VIEW"])
def test_long_sides_are_two_or_none(view: str) -> None:
    key = f"SSOD.{view}.LONG_SIDES"
    check(key, (205, 1843))
    assert refusal(key, (0, 1843)).startswith(f"{key} is (0, 1843); it must be (smallest, largest)")


def test_images_of_the_probe_have_a_size() -> None:
    check("INPUT.MIN_SIZE_TEST", 0)
    message = refusal("INPUT.MIN_SIZE_TEST", 0, "TEST.PSEUDO_LABEL_SET", "some_set")
    assert message.startswith("INPUT.MIN_SIZE_TEST is 0; it must be 1 or more while TEST.PSEUDO")


@pytest.mark.parametrize("key", keys_of(Registered))
def test_an_unknown_part_names_the_registered_ones(key: str) -> None:
    message = refusal(key, "polar")
    assert message.startswith(f"{key} is 'polar'; it must be one of ")
    valid = CHECKS[key]
    named = [name for name, _ in valid.registry if repr(name) in message]
    assert named == [name for name, part in valid.registry if valid.method in ("", *dir(part))]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("PROPOSAL_GENERATOR", "RPN"),
        ("PROPOSAL_GENERATOR", "RRPN"),
        ("ROI_HEADS", "CascadeROIHeads"),
    ],
)
def test_parts_without_losses_for_unlabeled_images_are_refused(key: str, name: str) -> None:
    """A training met them at its first step, as an AttributeError."""
    message = refusal(f"MODEL.{key}.NAME", name)
    assert message.startswith(f"MODEL.{key}.NAME is {name!r}; it must be one of ")
    assert repr(name) not in message.partition("must be one of")[2]


@pytest.mark.parametrize("name", [name for name, _ in METHODS])
@pytest.mark.parametrize("given", sorted({method.architecture for _, method in METHODS}))
def test_a_method_trains_its_own_architecture_alone(name: str, given: str) -> None:
    needed = METHODS.get(name).architecture
    opts = ("SSOD.METHOD", name, "MODEL.META_ARCHITECTURE", given)
    if given == needed:
        check(*opts)
        return
    message = refusal(*opts)
    assert f"MODEL.META_ARCHITECTURE is {given!r}; it must be {needed!r}" in message
    assert f"the method {name}" in message
    # What to do: the file that has it, or the methods that do train the given one.
    special = needed != "SemiSupervisedRCNN"
    users = [other for other, method in METHODS if method.architecture == given]
    for advice in [f"configs/methods/{name}.yaml"] if special else users:
        assert advice in message


def test_an_architecture_without_losses_of_unlabeled_images_is_refused() -> None:
    for opts in ((), ("SSOD.ENABLED", False)):
        message = refusal("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", *opts)
        assert "it must be 'SemiSupervisedRCNN'" in message


def test_either_box_transform_can_be_chosen() -> None:
    check("MODEL.ROI_BOX_HEAD.BOX_TRANSFORM", "center_size")
    check("MODEL.ROI_BOX_HEAD.BOX_TRANSFORM", "corner")


@pytest.mark.parametrize("names", [("voc07_bbox", "voc07_bbox"), ("bbox",), ("voc07_bbox", 7)])
def test_protocols_are_named_once(names: tuple[Any, ...]) -> None:
    check("TEST.VOC_PROTOCOLS", ("voc07_bbox", "voc10_bbox"))
    message = refusal("TEST.VOC_PROTOCOLS", names)
    assert "it must be different names out of bbox_ignore_difficult, voc07_bbox" in message


@pytest.mark.parametrize(("off", "on"), [("LER", "PRC"), ("PRC", "LER")])
def test_reweighting_needs_the_variance_branch(off: str, on: str) -> None:
    smooth_l1 = ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1")
    message = refusal(*smooth_l1, f"SSOD.{off}.ENABLED", False)
    assert message.startswith(f"SSOD.{on}.ENABLED is True; it must be False while ")
    assert "BBOX_REG_LOSS_TYPE is 'smooth_l1'" in message
    check(*smooth_l1, "SSOD.LER.ENABLED", False, "SSOD.PRC.ENABLED", False)
    # The baseline has no teacher to reweight by.
    check(*smooth_l1, "SSOD.ENABLED", False)


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
