"""Two processes of every registered method are one on the union batch, or it is said why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor

from dre_ssod.methods import MeanTeacher
from tests.forks import run_two_processes
from tests.methods.every import (
    EXPECTED,
    ONE_SIZE,
    batch_of,
    gradients_of,
    losses_of,
    trainer_of,
)
from tests.tiny_dataset import TinyDataset

DOCUMENTED = ("Every method, run", "Several processes")
"""Parts of docs/methods.md with a row per method."""
NAMES = sorted(EXPECTED)


def _one_step(name: str, data: TinyDataset, folder: Path) -> dict[str, Any]:
    """Losses and gradients of this process's share of the first batch, and what a step learns."""
    # PCV divides sums of its own.
    keys = {**ONE_SIZE, "SSOD.PCV.ENABLED": True, **EXPECTED[name].certain}
    run = trainer_of(name, data, folder, **keys)
    batch = batch_of(run)
    losses = losses_of(run, batch)
    terms = losses.supervised | losses.unsupervised
    found = {
        "losses": {key: value.detach() for key, value in terms.items()},
        "gradients": gradients_of(run, terms),
        "learned": {},
    }
    if type(run.method).learn is not MeanTeacher.learn:
        run._trainer._data_loader_iter_obj = iter([batch])
        with EventStorage(0):
            run._trainer.run_step()
        found["learned"] = _tensors(run.method.state_dict(), "")
    return found


def _tensors(value: Any, name: str) -> dict[str, Tensor]:
    """Those of nested containers by name; counts by bin as those of all bins up to it, no texts."""
    if isinstance(value, Tensor):
        return {name: value.cumsum(dim=-1) if name.endswith("counts") else value}
    if isinstance(value, str):
        return {}
    items = enumerate(value) if isinstance(value, list) else value.items()
    parts = [_tensors(item, f"{name}/{key}") for key, item in items]
    return {key: tensor for part in parts for key, tensor in part.items()}


def _steps(rank: int, data: TinyDataset, folder: Path) -> dict[str, Any]:
    return {name: _one_step(name, data, folder / f"{name}{rank}") for name in NAMES}


@pytest.fixture(scope="module")
def ranks(data: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, by method."""
    folder = tmp_path_factory.mktemp("ranks")
    return run_two_processes(_steps, data, folder, folder=folder)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one_on_the_union_batch(
    name: str, ranks: list[dict[str, Any]], data: TinyDataset, tmp_path: Path
) -> None:
    whole = _one_step(name, data, tmp_path)
    assert all(whole["losses"][key] > 0.0 for key in EXPECTED[name].terms)
    means = {
        kind: {key: torch.stack([r[name][kind][key] for r in ranks]).mean(dim=0) for key in values}
        for kind, values in whole.items()
        if kind != "learned"
    }
    if EXPECTED[name].not_union:
        losses = means["losses"].items()
        assert any(not value.isclose(whole["losses"][key], 1e-3) for key, value in losses)
        return
    for kind, values in means.items():
        for key, mean in values.items():
            _assert_close(mean, whole[kind][key], f"{kind} {key}")
    for rank in ranks:
        assert rank[name]["learned"].keys() == whole["learned"].keys()
        for key, value in whole["learned"].items():
            # A score may fall into the next bin by rounding.
            atol = 1.0 if key.endswith("counts") else 1e-2
            found = rank[name]["learned"][key]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=atol, msg=f"{name} {key}")


def test_documentation_says_of_every_method_whether_two_processes_are_one() -> None:
    """And has a row of its run."""
    for expected in EXPECTED.values():
        # Keys that keep rounding from choosing leave nothing to chance.
        off = [key for key in expected.certain if key != "SEED" and "THRESHOLD" not in key]
        assert bool(off) == bool(expected.draws)
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    runs, processes = (text.split(f"\n## {part}\n")[1].split("\n## ")[0] for part in DOCUMENTED)
    rows = [line.split("|")[1:-1] for line in processes.splitlines() if line.startswith("| `")]
    assert {tuple(cell.strip() for cell in cells) for cells in rows} == {
        (f"`{name}`", f"no: {e.not_union}" if e.not_union else "yes", e.draws)
        for name, e in EXPECTED.items()
    }
    ran = [line.split("`")[1] for line in runs.splitlines() if line.startswith("| `")]
    assert set(ran) == set(NAMES)


def _assert_close(found: Tensor, expected: Tensor, name: str) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * scale + 1e-9, msg=name)
