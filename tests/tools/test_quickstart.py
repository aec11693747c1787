"""The demo, trained for a moment on a few tiny images; and what it does about a run that fails."""

from __future__ import annotations

import json
import multiprocessing
import re
from functools import partial
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from dre_ssod.report import page
from dre_ssod.tables import processes
from tests.forks import print_as_programs_do
from tests.tiny_dataset import TinyDataset
from tools import plot_run

MOMENT = """
    SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SSOD.BURN_IN_ITERS 1 TEST.EVAL_PERIOD 0
    INPUT.MIN_SIZE_TRAIN (48,64) INPUT.MIN_SIZE_TEST 64 SOLVER.AMP.ENABLED False
    MODEL.ROI_HEADS.NUM_CLASSES 0 DATALOADER.NUM_WORKERS 0 SOLVER.IMS_PER_BATCH 2
"""


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SSOD.EVAL_MODEL", "teacher", "SSOD.EVAL_MODEL is 'teacher'; it must be 'both'"),
        ("SSOD.EVAL_MODEL", "student", "SSOD.EVAL_MODEL is 'student'; it must be 'both'"),
        ("DATASETS.TEST", "()", "DATASETS.TEST is (); it must be one set"),
        ("DATASETS.TEST", "('a','b')", "DATASETS.TEST is ('a', 'b'); it must be one set"),
    ],
)
def test_what_could_not_be_reported_is_not_trained(
    tool: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    value: str,
    message: str,
) -> None:
    def train(*_: object, **__: object) -> None:
        pytest.fail("a training would start")

    monkeypatch.setattr("dre_ssod.tables.schedule.run_all", train)
    assert tool.run(["--output", str(tmp_path / "out"), key, value]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_spread_of_seeds_is_that_of_the_sample_set_on_its_schedule(tool: ModuleType) -> None:
    assert tool.say_spread(2.0, []).endswith("this gain is more than that.")
    assert "no more than" in tool.say_spread(1.0, ["MODEL.DEVICE", "cpu"])
    for key in ("DATASETS.TEST", "SOLVER.MAX_ITER"):
        assert str(tool.SPREAD) not in tool.say_spread(2.0, ["SEED", "1", key, "9"])


def test_the_demo_trains_both_draws_and_tabulates(
    tool: ModuleType,
    data: TinyDataset,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # tests/launch/test_endings.py starts its runs as they are started, which takes seconds.
    forking = multiprocessing.get_context("fork")
    monkeypatch.setattr(processes, "get_context", lambda method: forking)
    started_run = partial(print_as_programs_do, processes._run_locally)
    monkeypatch.setattr(processes, "_run_locally", started_run)
    # Images of the report are drawn in the tests of its own.
    monkeypatch.setattr(page, "write_page", partial(page.write_page, most_images=0))
    sets = ["DATASETS.TRAIN", f"('{data.labeled}',)", "DATASETS.TEST", f"('{data.labeled}',)"]
    unlabeled = ["DATASETS.UNLABELED", f"('{data.unlabeled}',)"]
    words = ["--seed", "5", "--output", str(tmp_path), *MOMENT.split(), *sets, *unlabeled]
    assert tool.run(words) == 0
    shown = capfd.readouterr().out
    rows = re.findall(
        r"^(8 labeled images|the same and 4 unlabeled|difference) +(\S+)", shown, re.M
    )
    assert [name for name, _ in rows] == [
        "8 labeled images",
        "the same and 4 unlabeled",
        "difference",
    ]
    without, with_unlabeled, gain = (float(value) for _, value in rows)
    assert gain == pytest.approx(with_unlabeled - without, abs=0.11)
    plain = " ".join(shown.split())
    for text in ("objects of 8 test images", "4 images without any label", "Seed 5, PyTorch"):
        assert text in plain
    for text in ("with these DATASETS and SOLVER keys is not known",):
        assert text in plain
    # What is to be typed next.
    for text in ("tools/new_config.py --labeled", f"--run {tmp_path}/seed_5/semi-superv"):
        assert text in plain
    # It names those that run, of which one may have ended before.
    assert re.search(r"^training 100 %: .*2/2", shown, re.M)
    folder = tmp_path / "seed_5"
    assert shown.splitlines()[-1].endswith((folder / "report.html").as_uri())
    assert "<h1>Report of supervised and semi-supervised</h1>" in (
        (folder / "report.html").read_text(encoding="utf-8")
    )
    # As before, for the same runs; charts that are drawn again would show nothing new.
    monkeypatch.setattr(page, "make_page", lambda runs, examined, most_images: "")
    assert tool.run(words) == 0
    again = capfd.readouterr().out
    assert re.findall(r"^difference.*$", again, re.M) == re.findall(r"^difference.*$", shown, re.M)
    # What a run that has ended does not take up is not reported as if it had.
    assert tool.run([*words, "TEST.DETECTIONS_PER_IMAGE", "7"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "has ended, and other settings would not change its numbers: TEST.DETECTIONS_" in said
    for name in tool.RUNS:
        assert (folder / name / "model_final.pth").exists()
        # Not on the console of the demo.
        assert "Starting training" in (folder / name / "console.txt").read_text()
        started = json.loads((folder / name / "run.json").read_text())["runs"]
        assert started[0]["command"].startswith("train_net.py --config-file")
    height, width, _ = cv2.imread(str(folder / "predictions.png")).shape
    assert height > tool.DRAWN_IMAGES * 64
    assert width > 2 * 96
    # Of own runs by the tool for that.
    folders = [str(folder / name) for name in tool.RUNS]
    assert plot_run.run([*folders, "--output", str(tmp_path), "--found", "2"]) == 0
    fewer, _, _ = cv2.imread(str(tmp_path / "found.jpg")).shape
    assert 64 < fewer < height
