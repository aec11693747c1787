"""The demo, trained for a moment on a few tiny images; and what it does about a run that fails."""

from __future__ import annotations

import json
import re
import time
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from dre_ssod.errors import UserError
from tests.tiny_dataset import TinyDataset, write_tiny_dataset

MOMENT = """
    SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SSOD.BURN_IN_ITERS 1 TEST.EVAL_PERIOD 0
    INPUT.MIN_SIZE_TRAIN (48,64) INPUT.MIN_SIZE_TEST 64 SOLVER.AMP.ENABLED False
    MODEL.ROI_HEADS.NUM_CLASSES 0 DATALOADER.NUM_WORKERS 0
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    return write_tiny_dataset(tmp_path_factory.mktemp("data"))


def test_the_demo_trains_both_draws_and_tabulates(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sets = ["DATASETS.TRAIN", f"('{data.labeled}',)", "DATASETS.TEST", f"('{data.labeled}',)"]
    unlabeled = ["DATASETS.UNLABELED", f"('{data.unlabeled}',)"]
    words = ["--seed", "5", "--output", str(tmp_path), *MOMENT.split(), *sets, *unlabeled]
    assert tool.run(words) == 0
    shown = capfd.readouterr().out
    assert "8 labeled images, 4 unlabeled images, 8 test images, seed 5" in shown
    rows = re.findall(r"^(supervised|semi-supervised) +(student|teacher) ", shown, re.MULTILINE)
    assert rows == [(name, model) for name in tool.RUNS for model in ("student", "teacher")]
    folder = tmp_path / "seed_5"
    for name in tool.RUNS:
        assert (folder / name / "model_final.pth").exists()
        # Not on the console of the demo.
        assert "Starting training" in (folder / name / "console.txt").read_text()
        started = json.loads((folder / name / "run.json").read_text())["runs"]
        assert started[0]["command"].startswith("train_net.py --config-file")
    height, width, _ = cv2.imread(str(folder / "predictions.png")).shape
    assert height > tool.DRAWN_IMAGES * 64
    assert width > 3 * 96


def end_with(code: int, seconds: float = 0.0) -> None:
    time.sleep(seconds)
    raise SystemExit(code)


def test_a_run_that_fails_ends_the_other_and_says_why(tool: ModuleType, tmp_path: Path) -> None:
    context = get_context("fork")
    processes = {
        "one": context.Process(target=end_with, args=(0, 1000.0)),
        "other": context.Process(target=end_with, args=(3,)),
    }
    runs = {name: tmp_path / name for name in processes}
    for name, process in processes.items():
        runs[name].mkdir()
        (runs[name] / "console.txt").write_text(f"first\nlast of {name}\n")
        process.start()
    with pytest.raises(UserError, match=r"the other run failed, see .*: first last of other"):
        tool.wait(processes, runs)
    assert not any(process.is_alive() for process in processes.values())


def test_progress_is_the_newest_line_with_an_eta(tool: ModuleType, tmp_path: Path) -> None:
    console = tmp_path / "console.txt"
    console.write_text("[date] loading\n")
    assert tool.progress(tmp_path) == "eta: starting"
    console.write_text(f"[1] eta: 0:09 iter: 1\n[2] eta: 0:05 iter: 2 {'x' * 200}\n[3] saved\n")
    assert tool.progress(tmp_path) == f"eta: 0:05 iter: 2 {'x' * 200}"[: tool.PROGRESS_WIDTH]
