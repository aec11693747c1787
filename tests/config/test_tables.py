"""The rows of tables 1 and 2 as the docs have them, and the published settings."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from detectron2.config import CfgNode

from dre_ssod.config.checks import check_config
from dre_ssod.config.reading import leaves, read_config
from dre_ssod.methods import METHODS, build_method
from tests import ROOT

CONFIGS = ROOT / "configs"
SHARES = {"1pct": 1.0, "5pct": 5.0, "10pct": 10.0}
TABLE_1_AND_2 = {
    "Supervised",
    "MeanTeacher",
    "STAC",
    "InstantTeaching",
    "InstantTeachingStar",
    "ISMTLike",
    "UnbiasedTeacher",
    "UnbiasedTeacherV2",
    "SoftTeacher",
    "MUM",
    "RobustTeacher",
    "LabelMatch",
    "MixPL",
    "CSTLike",
    "RPLLike",
    "DRE",
}


def _commands() -> dict[tuple[str, str], list[str]]:
    """Config files by row and set, out of docs/methods.md."""
    found = {}
    for line in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").splitlines():
        cells = re.findall(r"`([^`]+)`", line)
        if not line.startswith("| `") or len(cells) != 4 or not cells[1].endswith(".yaml"):
            continue
        row, standard, additional, voc = cells
        for share in SHARES:
            found[row, share] = standard.replace("Npct", share).split(",")
        found[row, "additional"] = additional.split(",")
        found[row, "voc"] = voc.split(",")
    return found


COMMANDS = _commands()


@cache
def _read(*files: str) -> CfgNode:
    cfg = read_config(",".join(str(CONFIGS / file) for file in files))
    check_config(cfg, 1)
    cfg.freeze()
    return cfg


def _changed(one: CfgNode, two: CfgNode) -> set[str]:
    before, after = dict(leaves(one)), dict(leaves(two))
    return {key for key in before if before[key] != after[key]}


def _of_testing(key: str) -> bool:
    return "_TEST" in key or key.startswith("TEST.")


def test_every_row_of_the_tables_is_there() -> None:
    assert {row for row, _ in COMMANDS} == TABLE_1_AND_2
    assert len(COMMANDS) == 5 * len(TABLE_1_AND_2)


@pytest.mark.parametrize(("row", "data"), COMMANDS)
def test_a_row_has_the_data_the_method_and_the_batch_of_the_paper(row: str, data: str) -> None:
    cfg = _read(*COMMANDS[row, data])
    assert type(build_method(cfg)).__name__ == row or not cfg.SSOD.ENABLED
    assert cfg.SSOD.ENABLED == (row != "Supervised")
    of_data = _read(f"coco_{data}.yaml" if data != "voc" else "voc.yaml")
    keys = ["DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.LABELED_PERCENT", "MODEL.WEIGHTS"]
    # All rows of a table are tested in one way.
    keys += ["MODEL.ROI_HEADS.NUM_CLASSES", *(key for key, _ in leaves(cfg) if _of_testing(key))]
    if cfg.SSOD.ENABLED:
        keys += ["DATASETS.UNLABELED", "SSOD.LABELED_TO_UNLABELED", "SOLVER.IMS_PER_BATCH"]
    found, expected = dict(leaves(cfg)), dict(leaves(of_data))
    assert {key: found[key] for key in keys} == {key: expected[key] for key in keys}
    labeled = 8 if data == "voc" else 4
    unlabeled = 0 if row == "Supervised" else 8 if data == "voc" else 16
    assert cfg.SOLVER.IMS_PER_BATCH == labeled + unlabeled
    assert cfg.DATASETS.LABELED_PERCENT == SHARES.get(data, 100.0)


@pytest.mark.parametrize(("row", "data"), COMMANDS)
def test_a_row_differs_from_what_it_builds_on_by_what_it_names(row: str, data: str) -> None:
    *before, last = COMMANDS[row, data]
    if not before:
        return
    changed = _changed(_read(*before), _read(*COMMANDS[row, data]))
    if "batch" in last:
        batch = {"SOLVER.IMS_PER_BATCH", "SSOD.LABELED_TO_UNLABELED"}
        # What LabelMatch and STAC have of their own, see the test before.
        assert {key for key in changed if not _of_testing(key)} <= batch
    else:
        assert "SSOD.METHOD" in changed
        assert not {key for key in changed if key.startswith(("SOLVER.", "INPUT.", "DATASETS."))}


def test_each_method_has_a_config_of_its_name() -> None:
    paths = sorted((CONFIGS / "methods").glob("*.yaml"))
    assert [path.stem for path in paths] == sorted(name for name, _ in METHODS)
    for path in paths:
        assert _read("voc.yaml", f"methods/{path.name}").SSOD.METHOD == path.stem


# Rate, iterations, drops, images, beta, decay and burn-in, as the public configs have them.
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "UnbiasedTeacher_coco_*pct": (0.01, 180_000, (), (32, 32), 4.0, 0.9996, 2000),
    "UnbiasedTeacher_coco_additional": (0.01, 360_000, (), (32, 32), 2.0, 0.9996, 90_000),
    "UnbiasedTeacher_voc": (0.01, 180_000, (), (16, 16), 2.0, 0.999, 30_000),
    "UnbiasedTeacherV2_coco_1*pct": (0.01, 180_000, (), (32, 32), 4.0, 0.9996, 2000),
    "UnbiasedTeacherV2_coco_5pct": (0.01, 180_000, (), (32, 32), 2.0, 0.9996, 2000),
    "SoftTeacher_coco_*pct": (0.01, 180_000, (120_000, 160_000), (8, 32), 4.0, 0.999, 0),
    "SoftTeacher_coco_additional": (0.01, 720_000, (480_000, 640_000), (32, 32), 2.0, 0.999, 0),
    "MUM_coco_*pct": (0.01, 180_000, (179_990,), (32, 32), 4.0, 0.9996, 0),
    "MUM_voc": (0.01, 45_000, (), (32, 32), 4.0, 0.9996, 0),
    "STAC_coco_*pct": (0.01, 180_000, (120_000, 160_000), (8, 8), 2.0, 0.999, 0),
    "STAC_coco_additional": (0.01, 540_000, (420_000, 500_000), (8, 8), 2.0, 0.999, 0),
    "STAC_voc": (0.001, 160_000, (60_000, 120_000), (1, 1), 2.0, 0.999, 0),
    "InstantTeaching*": (0.01, 176_000, (117_000, 161_000), (8, 8), 1.0, 0.999, 0),
    "MixPL*": (0.01, 180_000, (), (8, 32), 2.0, 0.9998, 0),
    "LabelMatch_coco_*pct": (0.01, 160_000, (), (16, 16), 2.0, 0.996, 0),
    "LabelMatch_coco_additional": (
        *(0.004, 540_000, (360_000, 480_000), (32, 32)),
        *(2.0, 0.996, 0),
    ),
    "LabelMatch_voc": (0.005, 80_000, (), (8, 8), 2.0, 0.996, 0),
    "RobustTeacher_coco_*pct": (0.001, 250_000, (), (4, 4), 3.5, 0.9996, 2000),
    "RobustTeacher_coco_additional": (0.001, 360_000, (), (4, 4), 2.0, 0.9996, 90_000),
    "RobustTeacher_voc": (0.005, 180_000, (), (16, 16), 2.0, 0.999, 30_000),
}
BOUNDS = {
    "SoftTeacher": {"RPN_SCORE": 0.9, "CLS_SCORE": 0.9, "SCORE_THRESHOLD": 0.5, "BOX_SPREAD": 0.02},
    "UnbiasedTeacher": {"SCORE_THRESHOLD": 0.7, "GAMMA": 1.5},
    "UnbiasedTeacherV2": {"MARGIN": 0.1, "CERTAINTY": 0.5, "BOX_WEIGHT": 1.0, "NLL_WEIGHT": 0.05},
    "MUM": {"TILES": 4, "GROUP": 4, "PROBABILITY": 1.0},
    "STAC": {"SCORE_THRESHOLD": 0.9, "OWN_SIZE": True},
    "InstantTeaching": {"SCORE_THRESHOLD": 0.9},
    "LabelMatch": {
        "RELIABLE_SHARE": 0.2,
        "TEMPERATURE": 0.5,
        "MINING_IOU": 0.8,
        "MINING_SCORE": 0.8,
    },
    "MixPL": {"SCORE_THRESHOLD": 0.7, "EMA_INTERVAL": 3, "EMA_GAMMA": 4.0},
    "RobustTeacher": {"MIN_SCORE": 0.05, "JITTER_COPIES": 10, "JITTER_SCALE": 0.08, "PASTE": 0.5},
}
RAMPS = {"coco_1pct": 2000, "coco_5pct": 2000, "coco_10pct": 2000, "voc": 30_000}
GROUPS = {"LabelMatch": "LABELMATCH", "UnbiasedTeacherV2": "UNBIASED_TEACHER_V2", "MixPL": "MIXPL"}


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_settings(pattern: str) -> None:
    paths = sorted((CONFIGS / "published").glob(f"{pattern}.yaml"))
    assert paths
    for path in paths:
        cfg = read_config(str(path))
        labeled, unlabeled = cfg.SSOD.LABELED_TO_UNLABELED
        part = cfg.SOLVER.IMS_PER_BATCH // (labeled + unlabeled)
        solver, ssod = cfg.SOLVER, cfg.SSOD
        found = (solver.BASE_LR, solver.MAX_ITER, tuple(solver.STEPS))
        found += ((part * labeled, part * unlabeled), ssod.UNSUP_LOSS_WEIGHT)  # type: ignore[assignment]
        assert (*found, ssod.EMA.DECAY, ssod.BURN_IN_ITERS) == PUBLISHED[pattern], path.name


@pytest.mark.parametrize(
    ("method", "weight"),
    [("InstantTeaching", 1.0), ("InstantTeachingStar", 1.0), ("MixPL", 2.0), ("STAC", 2.0)],
)
@pytest.mark.parametrize("data", ["coco_1pct", "coco_additional", "voc", "bccd_10pct"])
def test_bases_that_bring_a_weight_have_the_published_one_on_any_data(
    method: str, weight: float, data: str
) -> None:
    assert _read(f"{data}.yaml", f"methods/{method}.yaml").SSOD.UNSUP_LOSS_WEIGHT == weight


def test_all_published_files_are_checked() -> None:
    folder = CONFIGS / "published"
    known = {path for pattern in PUBLISHED for path in folder.glob(f"{pattern}.yaml")}
    others = {path.name for path in set(folder.glob("*.yaml")) - known}
    assert all(name.startswith("Base-") for name in others)


@pytest.mark.parametrize("method", BOUNDS)
def test_published_bounds(method: str) -> None:
    group = GROUPS.get(method, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method).upper())
    for path in (CONFIGS / "published").glob(f"{method}_*.yaml"):
        found = read_config(str(path)).SSOD[group]
        assert {key: found[key] for key in BOUNDS[method]} == BOUNDS[method], path.name


@pytest.mark.parametrize("data", RAMPS)
def test_the_published_ramp_of_mum_is_as_long_as_the_burn_in_that_it_replaces(data: str) -> None:
    ramp = _read(f"published/MUM_{data}.yaml").SSOD.MUM.RAMP_ITERS
    burn_in = _read(f"published/UnbiasedTeacher_{data}.yaml").SSOD.BURN_IN_ITERS
    assert ramp == burn_in == RAMPS[data]


def test_published_views_of_label_match_have_large_scale_jitter() -> None:
    paths = sorted((CONFIGS / "published").glob("LabelMatch_*.yaml"))
    assert len(paths) == 5
    for path in paths:
        cfg = read_config(str(path))
        labeled, unlabeled = build_method(cfg).mappers(cfg)
        weak, strong = unlabeled.drawn
        learned = labeled.recipe, strong
        assert (weak.short_sides, weak.max_size, weak.long_sides) == ((500, 800), 1333, None)
        # 1024 * 0.2 and 1024 * 1.8.
        assert {recipe.long_sides for recipe in learned} == {(205, 1843)}, path.name
        assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333), path.name
