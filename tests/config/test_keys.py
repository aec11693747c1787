from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from dre_ssod import add_ssod_config
from dre_ssod.config.checks import check_config
from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import read_config
from dre_ssod.methods import METHODS, build_method
from dre_ssod.methods.dre import DRE
from dre_ssod.settings import get_key
from tests import ROOT

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a nested config with its value; an empty group has none."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def keys_read(path: Path) -> set[str]:
    """Dotted keys that a file reads off ``cfg``, also through names given to groups of keys."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        groups = {"cfg": ""}

        def dotted(node: ast.expr, groups: dict[str, str] = groups) -> str | None:
            if isinstance(node, ast.Name):
                return groups.get(node.id)
            if isinstance(node, ast.Attribute):
                if node.attr == "cfg":
                    return ""
                base = dotted(node.value)
                return None if base is None else f"{base}{node.attr}."
            return None

        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                group = dotted(node.value)
                if group:
                    groups[node.targets[0].id] = group
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add((dotted(node) or "").removesuffix("."))
    return found


def test_every_key_of_the_project_is_read() -> None:
    theirs = dict(leaves(get_detectron2_cfg()))
    ours = {key for key, _ in leaves(get_cfg())} - theirs.keys()
    assert {"SSOD.UNSUP_LOSS_WEIGHT", "SOLVER.AMP.DTYPE", "DATASETS.UNLABELED"} <= ours
    # What only the definition and its checks name is a key that does nothing.
    sources = {*(ROOT / "dre_ssod").rglob("*.py"), *(ROOT / "tools").rglob("*.py")}
    sources -= set((ROOT / "dre_ssod" / "config").glob("*.py"))
    read = set().union(*map(keys_read, sources))
    # A method reads its keys as fields of its settings.
    attributes = set().union(*map(settings_read, sources))
    for _, method in METHODS:
        read |= {
            field.metadata["key"].name
            for field in fields(method.Settings)
            if field.name in attributes
        }
    assert not sorted(ours - read)


def settings_read(path: Path) -> set[str]:
    """Names that a file reads off ``self.settings`` or ``self._settings``."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Attribute) and node.value.attr in ("settings", "_settings"))
            or (isinstance(node.value, ast.Name) and node.value.id == "settings")
        )
    }


def test_a_config_from_before_methods_means_what_it_meant() -> None:
    """Written by version 0.2.0 when it knew one method, whose keys it names."""
    path = Path(__file__).parent / "config_before_methods.yaml"
    assert "\n  METHOD:" not in path.read_text(encoding="utf-8")
    for cfg in (load(path), read_config(str(path), [])):
        check_config(cfg, 1)
        method = build_method(cfg)
        assert type(method) is DRE
        assert method.settings == DRE.Settings(
            score_threshold=0.05,
            unsup_loss_weight=2.0,
            ema_decay=0.5,
            ler=False,
            cls_normalizer="sampled",
        )


def test_defaults_are_those_that_runs_rely_on() -> None:
    """A config states only what differs: another default changes every run that says nothing."""
    expected = yaml.safe_load((Path(__file__).parent / "defaults.yaml").read_text("utf-8"))
    theirs = dict(leaves(get_detectron2_cfg()))
    found = {key: value for key, value in leaves(get_cfg()) if theirs.get(key) != value}
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}
    assert plain == expected


def test_a_config_made_elsewhere_is_extended() -> None:
    cfg = get_detectron2_cfg()
    add_ssod_config(cfg)
    assert cfg == get_cfg()


def test_an_unknown_key_and_a_wrong_type_name_the_key() -> None:
    cfg = get_cfg()
    with pytest.raises(Exception, match=r"SSOD\.SCORE_TRESHOLD"):
        cfg.merge_from_list(["SSOD.SCORE_TRESHOLD", 0.5])
    with pytest.raises(ValueError, match=r"SSOD\.SCORE_THRESHOLD"):
        cfg.merge_from_list(["SSOD.SCORE_THRESHOLD", "high"])


def load(path: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    return cfg


def is_base(path: Path) -> bool:
    """Whether a config is for others to build upon: named so, or a method without data."""
    return path.name.startswith("Base-") or path.parent.name in ("methods", "recipes")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "configs").as_posix()


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_every_config_loads_and_repeats_nothing_of_its_base(path: Path) -> None:
    cfg = load(path)
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    bases = stated.pop("_BASE_", None)
    if bases is None:
        assert is_base(path)
        return
    parent, said_before = get_cfg(), {}
    for base in [bases] if isinstance(bases, str) else bases:
        parent.merge_from_file(str(path.parent / base))
        said_before |= dict(leaves(CfgNode.load_yaml_with_base(str(path.parent / base))))
    repeated = [
        key
        for key, _ in leaves(stated)
        if key in said_before and get_key(cfg, key) == get_key(parent, key)
    ]
    assert not repeated


@pytest.mark.parametrize("path", [path for path in CONFIGS if not is_base(path)], ids=name_of)
def test_every_config_can_be_trained(path: Path) -> None:
    cfg = load(path)
    assert cfg.DATASETS.TRAIN
    assert cfg.DATASETS.TEST
    check_config(cfg, world_size=1)
    if any(name.startswith("coco_") for name in cfg.DATASETS.TRAIN):
        check_config(cfg, world_size=2)
    assert max(cfg.SOLVER.STEPS, default=0) < cfg.SOLVER.MAX_ITER


def test_no_two_configs_write_into_one_folder() -> None:
    folders: dict[str, str] = {}
    for path in CONFIGS:
        if not is_base(path):
            name = name_of(path)
            other = folders.setdefault(load(path).OUTPUT_DIR, name)
            assert other == name
