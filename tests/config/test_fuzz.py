"""Every key of the project, whatever it is set to, is accepted or refused by its name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from detectron2.config import get_cfg as get_detectron2_cfg
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.config.checks import check_config
from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import leaves, read_config
from dre_ssod.errors import ConfigError

DEFAULTS = dict(leaves(get_cfg()))
OURS = {key: DEFAULTS[key] for key in sorted(DEFAULTS.keys() - dict(leaves(get_detectron2_cfg())))}
FREE_TEXTS = {
    "DATASETS.SPLIT_FILE",
    "MODEL.TIMM.NAME",
    "MODEL.TIMM.WEIGHTS",
    "TEST.PSEUDO_LABEL_SET",
}
"""Names of files, models and data sets, which are looked for where they are used."""

# Of one value for each type; a whole number may stand for a decimal one.
SAMPLES: dict[type, Any] = {
    bool: True,
    int: 3,
    float: 0.5,
    str: "some text",
    tuple: (1, 2),
    type(None): None,
    dict: {"a": 1},
    set: {1},
    complex: 1j,
    bytes: b"x",
}
HUGE = 10**400
TOO_MUCH = (math.nan, math.inf, -math.inf, 1e308, -1e308, HUGE, -HUGE, -1)
WRONG_ITEMS: tuple[tuple[Any, ...], ...] = (
    (None,),
    (None, None),
    ("", ""),
    (1j, 2j),
    ((1,), (2,)),
    (math.nan, math.nan),
    (-HUGE, HUGE),
    (True, False),
    (1.5, 1.25, 1.0, -7.0, 2.5, 9.5),
)


def accept(key: str, value: Any) -> None:
    """Read and check a config in which one key has this value, as from the command line."""
    usual = ["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"]
    check_config(read_config("", [*usual, key, value]), world_size=1)


def complaint(words: list[Any]) -> str | None:
    """What is said about a command line; None if it is accepted. Nothing else may be raised."""
    try:
        check_config(read_config("", words), world_size=1)
    except ConfigError as error:
        return str(error)
    return None


def refusal(key: str, value: Any) -> str:
    with pytest.raises(ConfigError) as error:
        accept(key, value)
    return str(error.value)


def test_the_defaults_are_accepted() -> None:
    assert len(OURS) > 30
    for key, value in OURS.items():
        accept(key, value)


@pytest.mark.parametrize("key", OURS)
def test_a_value_of_another_type_is_refused(key: str) -> None:
    kind = type(OURS[key])
    for other, value in SAMPLES.items():
        if other is not kind and (other, kind) != (int, float):
            message = refusal(key, value)
            assert key in message
            assert repr(value) in message
            # The same, as the words of a command line are.
            if other is not str:
                assert key in refusal(key, repr(value))


@pytest.mark.parametrize("key", [k for k, v in OURS.items() if type(v) in (int, float)])
def test_a_number_out_of_range_is_refused(key: str) -> None:
    for value in TOO_MUCH:
        assert refusal(key, value).startswith(f"{key} is ")


@pytest.mark.parametrize("key", [k for k, v in OURS.items() if type(v) is tuple])
def test_a_tuple_of_wrong_things_is_refused(key: str) -> None:
    for value in WRONG_ITEMS:
        assert key in refusal(key, value)


@pytest.mark.parametrize("key", [k for k, v in OURS.items() if type(v) is str])
def test_an_unknown_text_is_refused_unless_it_names_something_elsewhere(key: str) -> None:
    if key in FREE_TEXTS:
        accept(key, "no such value")
    else:
        assert key in refusal(key, "no such value")


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(list(OURS)), value=VALUES)
def test_any_value_is_accepted_or_refused_by_its_key(key: str, value: Any) -> None:
    message = complaint(["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", key, value])
    assert message is None or key in message


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from([*OURS, "SSOD", "x", "--resume"]) | st.text(max_size=12)))
def test_any_command_line_is_accepted_or_refused(words: list[str]) -> None:
    assert complaint(words) != ""
