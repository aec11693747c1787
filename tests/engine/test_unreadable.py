"""A run on a folder with an image that is cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import default_argument_parser

import train_net
from tests.tiny_dataset import TinyDataset, loggers_kept, tiny_run, write_tiny_dataset

pytestmark = pytest.mark.usefixtures("kept_loggers")

ITERATIONS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    found = write_tiny_dataset(tmp_path_factory.mktemp("data"))
    cut = found.root / "more" / "u1.png"
    cut.write_bytes(cut.read_bytes()[:200])
    return found


def train(data: TinyDataset, folder: Path, *words: str) -> Path:
    """The folder of a run of the program that a user starts."""
    settings: dict[str, Any] = {
        "DATASETS.LABELED_PERCENT": 100.0,
        "TEST.EVAL_PERIOD": 0,
        "SOLVER.CHECKPOINT_PERIOD": 3,
        "SOLVER.MAX_ITER": ITERATIONS,
    }
    folder.mkdir(exist_ok=True)
    cfg = tiny_run(data, folder / "run", **settings)
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    options = ["--config-file", str(folder / "config.yaml"), *words]
    train_net.main(default_argument_parser().parse_args(options))
    return folder / "run"


def counts(run: Path, name: str) -> dict[str, int]:
    content: dict[str, Any] = torch.load(run / name, weights_only=True)
    found: dict[str, int] = content["trainer"]["_trainer"]["images"]
    return found


@pytest.fixture(scope="module")
def run(data: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with loggers_kept():
        return train(data, tmp_path_factory.mktemp("whole"))


def test_the_image_is_skipped_counted_and_named_once(run: Path) -> None:
    found = counts(run, "model_final.pth")
    # Of two unlabeled images an iteration every fourth is cut off.
    assert found["skipped"] >= 2 * ITERATIONS // 4
    assert found["drawn"] == 4 * ITERATIONS + found["skipped"]
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert log.count("Skipped an image") == 1
    assert "u1.png" in log
    lines = (run / "metrics.json").read_text(encoding="utf-8").splitlines()
    written = [json.loads(line).get("ssod/skipped_images") for line in lines]
    assert found["skipped"] in written


def test_a_resumed_run_counts_on_and_ends_with_the_same_weights(
    run: Path, data: TinyDataset, tmp_path: Path
) -> None:
    half = tmp_path / "run"
    half.mkdir()
    for name in ("model_0000002.pth", "config.yaml"):
        (half / name).write_bytes((run / name).read_bytes())
    assert 0 < counts(half, "model_0000002.pth")["skipped"]
    resumed = train(data, tmp_path, "--resume")
    assert counts(resumed, "model_final.pth") == counts(run, "model_final.pth")
    found, expected = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (resumed, run)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
