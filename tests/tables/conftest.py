"""Tables of runs that nobody trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from dre_ssod.tables.definition import Table, read_table
from dre_ssod.tables.filed import file_result
from dre_ssod.tables.plan import identify

WriteTable = Callable[..., Table]

CONTENT: dict[str, Any] = {
    "title": "Two rows",
    "config": "base.yaml",
    "folds": [0, 1, 2],
    "reference": "plain",
    "rows": {"plain": {"set": {"SSOD.PRC.ENABLED": False}}, "DRE": {}},
}


AP = {"plain": (40.0, 42.0, 50.0), "DRE": (41.0, 44.0, 50.0), "all": (45.0,)}


@pytest.fixture
def write_table(tmp_path: Path) -> WriteTable:
    """Writes a table beside a config, and reads it."""

    def write(base: str = "SSOD: {BURN_IN_ITERS: 2}\n", **changes: Any) -> Table:
        (tmp_path / "base.yaml").write_text("DATASETS: {LABELED_PERCENT: 10}\n" + base)
        path = tmp_path / "table.yaml"
        path.write_text(yaml.safe_dump({**CONTENT, **changes}, sort_keys=False))
        return read_table(path)

    return write


def leave_run(
    folder: Path,
    ap: Mapping[str, float],
    kind: str = "training",
    classes: float = 50.0,
    machine: Mapping[str, str] = MappingProxyType({"device": "cpu"}),
    sets: Sequence[str] = ("set",),
    weights: Path | None = None,
    precision: str = "float32",
) -> None:
    """What a finished run leaves that a table reads.

    Args:
        ap: AP by model; AP50 and AP75 are 10 more and 10 less, and all are 20 less with each test
            set after the first.
        weights: of an evaluation; None for a model that was trained in this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models = {
        model: {
            name: {
                "bbox": {
                    "metrics": {"AP": own, "AP50": own + 10, "AP75": own - 10},
                    "per_class": {"cat": {"AP": classes}, "dog": {"AP": None}},
                }
            }
            for own, name in zip(count(value, -20), sets, strict=False)
        }
        for model, value in ap.items()
    }
    evaluation = {"kind": kind, "finished": "2026-01-01T00:00:00+00:00", "models": models}
    start = {
        "kind": kind,
        "precision": precision,
        "machine": dict(machine),
        "versions": {"torch": "2"},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "weights": str(weights or folder / "model_final.pth"),
    }
    runs = [start] if weights or kind == "training" else [{**start, "kind": "training"}, start]
    (folder / "results.json").write_text(json.dumps({"evaluations": [evaluation]}))
    (folder / "run.json").write_text(json.dumps({"runs": runs}))


def file_all(table: Table, tmp_path: Path, runs: int = 3) -> None:
    for cell in table.cells():
        fold = cell.repeat.fold or 0
        if fold < runs:
            value = AP[cell.row][fold]
            folder = tmp_path / cell.name
            leave_run(folder, {"teacher": value, "student": value - 1.0})
            identity = identify([cell], lambda cfg: {"test": "t"})[cell.name]
            file_result(cell, identity, folder, tmp_path / "results", "training")
