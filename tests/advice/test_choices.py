"""First configs: what they are made from, and that the rules do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dre_ssod.advice.choices import GIB, LARGE, RECIPE, SMALL, Plan, plan
from dre_ssod.advice.config_file import UNKNOWN, as_yaml
from dre_ssod.advice.facts import DataFacts, Machine, Sources, look_at_data, look_at_machine
from dre_ssod.config.checks import check_config
from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import leaves, read_config
from dre_ssod.errors import ConfigError
from tests import ROOT
from tests.tiny_dataset import TinyDataset

CPU = Machine("cpu", "a CPU with 2 cores")
SOURCES = Sources(("coco://a.json?images=a",), ("folder://b",), ("coco://c.json?images=a",))


def gpu(gib: float) -> Machine:
    return Machine("cuda", f"a GPU of {gib} GiB", int(gib * GIB))


def facts(**changes: Any) -> DataFacts:
    """Boxes of a tenth to a half of the short side of 640 x 480 images."""
    found = {
        "classes": ("cat", "dog"),
        "objects": {"cat": 30, "dog": 5},
        "labeled": 20,
        "unlabeled": 185,
        "short_sides": np.full(20, 480.0),
        "long_sides": np.full(20, 640.0),
        "box_sides": np.linspace(0.1, 0.5, 101),
        "box_ratios": np.linspace(0.6, 1.6, 101),
    }
    return DataFacts(**{**found, **changes})


def planned(machine: Machine = CPU, **changes: Any) -> Plan:
    return plan(SOURCES, facts(**changes), machine, "output/mine")


@pytest.mark.parametrize(
    ("machine", "base", "batch", "passes"),
    [
        (CPU, SMALL, 8, 1),
        (gpu(4), SMALL, 8, 1),
        (gpu(6), LARGE, 20, 4),
        (gpu(8), LARGE, 20, 2),
        (gpu(24), LARGE, 20, 1),
        (gpu(80), LARGE, 20, 1),
    ],
)
def test_backbone_batch_and_passes_follow_the_device(
    machine: Machine, base: str, batch: int, passes: int
) -> None:
    found = planned(machine)
    assert found.base == base
    assert found.value("SOLVER.IMS_PER_BATCH") == batch
    assert found.value("SOLVER.ACCUMULATION_STEPS") == passes
    # Twice the batch, twice the rate; of the paper, and of the CPU's configs.
    expected = 0.01 * batch / 20 if base == LARGE else 0.006 * batch / 8
    assert found.value("SOLVER.BASE_LR") == pytest.approx(expected)


def test_large_images_need_more_passes() -> None:
    large = {"short_sides": np.full(20, 1200.0), "long_sides": np.full(20, 1600.0)}
    assert planned(gpu(24), **large).value("SOLVER.ACCUMULATION_STEPS") == 2
    assert planned(gpu(24), **large).value("INPUT.MIN_SIZE_TEST") == 800


@pytest.mark.parametrize(
    ("smallest", "short", "expected"),
    # 224, more for small objects, no more than 320, no more than there is.
    [(0.1, 480, 224), (0.045, 480, 256), (0.01, 480, 320), (0.01, 130, 128)],
)
def test_on_a_cpu_the_size_is_what_small_objects_need(
    smallest: float, short: int, expected: int
) -> None:
    found = planned(
        box_sides=np.full(50, smallest),
        short_sides=np.full(20, float(short)),
        long_sides=np.full(20, 4 / 3 * short),
    )
    assert found.value("INPUT.MIN_SIZE_TEST") == expected
    low, high = found.value("INPUT.MIN_SIZE_TRAIN")
    assert low < expected < high
    assert found.value("INPUT.MAX_SIZE_TEST") >= 4 / 3 * expected * 0.95


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        # Nine of ten boxes have 0.12 to 0.48 of the short side of 224.
        (np.linspace(0.1, 0.5, 101), [27, 54, 108, 215, 430]),
        (np.full(50, 0.01), [8, 16, 32, 64, 128]),
        (np.full(50, 0.9), [32, 64, 128, 256, 512]),
    ],
)
def test_anchors_start_at_the_small_boxes_and_double_as_strides_do(
    sides: Any, expected: list[int]
) -> None:
    found = planned(box_sides=sides).value("MODEL.ANCHOR_GENERATOR.SIZES")
    assert [size for [size] in found] == expected


def test_long_objects_get_an_anchor_of_their_shape() -> None:
    keys = [choice.key for choice in planned().choices]
    assert "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS" not in keys
    tall = planned(box_ratios=np.full(50, 4.0))
    assert tall.value("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS") == [[0.5, 1.0, 2.0, 4.0]]
    wide = planned(box_ratios=np.full(50, 0.2))
    assert wide.value("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS") == [[0.2, 0.5, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("machine", "labeled", "unlabeled", "expected"),
    [
        (CPU, 20, 185, 1000),
        # 8 times through 1800 by four, and 40 times through 400.
        (CPU, 200, 1800, 3600),
        (CPU, 400, 100, 4000),
        (CPU, 10**5, 10**6, 6000),
        (gpu(80), 1171, 116116, 174200),
        (gpu(80), 20, 185, 3000),
    ],
)
def test_the_length_follows_the_number_of_images(
    machine: Machine, labeled: int, unlabeled: int, expected: int
) -> None:
    found = planned(machine, labeled=labeled, unlabeled=unlabeled)
    assert found.value("SOLVER.MAX_ITER") == expected
    steps = found.value("SOLVER.STEPS")
    assert found.value("SSOD.BURN_IN_ITERS") < min(steps) <= max(steps) < expected
    assert expected // found.value("TEST.EVAL_PERIOD") == 5


@pytest.mark.parametrize(
    ("labeled", "expected"),
    # A fifth of the run; 16 passes over 200 images in batches with 4 of them; half of the run.
    [(20, 720), (200, 800), (3000, 3000)],
)
def test_the_small_detector_learns_from_labels_until_it_has_seen_them_often(
    labeled: int, expected: int
) -> None:
    found = planned(labeled=labeled, unlabeled=1800)
    assert found.value("SSOD.BURN_IN_ITERS") == expected
    assert found.value("SOLVER.MAX_ITER") == (6000 if labeled == 3000 else 3600)


@pytest.mark.parametrize("machine", [CPU, gpu(8), gpu(80)])
def test_the_file_is_read_as_it_was_planned(machine: Machine, tmp_path: Path) -> None:
    found = planned(machine, classes=("kreuz ä", "b\nDATASETS: 1"), objects={"b\nX: 1": 2})
    configs = str(ROOT / "configs")
    (tmp_path / "a.yaml").write_text(as_yaml(found, configs, "new_config"), encoding="utf-8")
    cfg = read_config(str(tmp_path / "a.yaml"))
    check_config(cfg, world_size=1)
    # All that the recipe says, and none of it said again.
    proposed = dict(leaves(cfg))
    recipe = dict(leaves(read_config(str(ROOT / "configs" / RECIPE))))
    changed = {key: value for key, value in recipe.items() if value != dict(leaves(get_cfg()))[key]}
    assert {key: proposed[key] for key in changed} == changed
    assert len(changed) >= 5
    assert not changed.keys() & {choice.key for choice in found.choices}
    for choice in found.choices:
        value: Any = cfg
        for part in choice.key.split("."):
            value = value[part]
        assert value == choice.value, choice.key
    text = (tmp_path / "a.yaml").read_text(encoding="utf-8")
    plain = text.replace("\n# ", " ")
    for unknown in UNKNOWN:
        assert unknown in plain
    assert max(map(len, text.splitlines())) <= 140
    # A comment stands above its key.
    lines = text.splitlines()
    at = next(n for n, line in enumerate(lines) if line.strip().startswith("MAX_ITER:"))
    assert lines[at - 1].strip().startswith("#")


def test_the_data_are_looked_at(data: TinyDataset) -> None:
    found = look_at_data(Sources((data.labeled,), (data.unlabeled,)))
    assert (found.labeled, found.unlabeled) == (8, 4)
    assert found.objects == {"class0": 8, "class1": 8, "class2": 8}
    assert set(found.short_sides) == {64.0}
    assert set(found.long_sides) == {96.0}
    # Squares of 12 to 27 pixels.
    assert found.box_ratios == pytest.approx(np.ones(24))
    assert 12 / 64 <= found.box_sides.min() <= found.box_sides.max() <= 27 / 64
    drawn = look_at_data(Sources((data.labeled,), (data.unlabeled,), percent=50.0))
    assert (drawn.labeled, drawn.unlabeled) == (4, 8)
    with pytest.raises(ConfigError, match="there are no unlabeled images: name them by"):
        look_at_data(Sources((data.labeled,)))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert look_at_machine("").device == look_at_machine("cpu").device == "cpu"
    with pytest.raises(ConfigError, match="this machine has no GPU"):
        look_at_machine("cuda")
