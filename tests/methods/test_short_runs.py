"""A short run of every registered method, and what a kill in it costs: nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dre_ssod.inspection.run_plots import panels_of
from dre_ssod.runs.history import read_runs
from tests.engine.resume_harness import Life, differences, end_state, live
from tests.methods.every import EXPECTED, SHORT, overrides_of
from tests.tiny_dataset import TinyDataset


@pytest.fixture(scope="module", params=sorted(EXPECTED))
def finished(
    request: pytest.FixtureRequest, data: TinyDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A method and the folder of its whole run; beside it, what a kill would have left."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    life = _life(request.param, data, folder, copy=(4, folder / "killed" / "run"))
    assert live(data, folder / "run", life) == [0], (folder / "run" / "log.txt.life0").read_text()[
        -3000:
    ]
    return request.param, folder / "run"


def _life(name: str, data: TinyDataset, folder: Path, **more: Any) -> Life:
    # One unlabeled image in a pass exchanges tiles with none.
    own = {"SSOD.MUM.GROUP": 1} if name == "MUM" else {}
    return Life({**SHORT, **overrides_of(name, data, folder), **own}, **more)


def test_it_trains(finished: tuple[str, Path]) -> None:
    name, folder = finished
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    losses = {key: value for key, value in lines[-1].items() if "loss" in key}
    assert all(math.isfinite(value) for value in losses.values())
    assert {key for key in losses if key.endswith("_unsup")} == EXPECTED[name].terms
    saved = torch.load(folder / "model_final.pth", weights_only=True)
    same = [torch.equal(saved["model"][key], saved["student"][key]) for key in saved["model"]]
    assert all(same) == EXPECTED[name].is_live
    plotted = {
        figure for panel in panels_of(read_runs([folder])) for figure in panel.figures.values()
    }
    assert losses.keys() - {"total_loss"} <= plotted


def test_it_resumes_bit_for_bit(finished: tuple[str, Path], data: TinyDataset) -> None:
    name, folder = finished
    killed = folder.parent / "killed" / "run"
    assert (killed / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not (killed / "model_final.pth").exists()
    assert live(data, killed, _life(name, data, folder.parent)) == [0]
    assert differences(end_state(folder), end_state(killed)) == []
