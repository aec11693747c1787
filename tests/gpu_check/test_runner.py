"""Steps that end well, badly, too late or without a word: what they found is kept."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dre_ssod.benchmark.report import Goal, Row
from dre_ssod.gpu_check.findings import CheckReport, Fact, Finding, Setting, Step
from dre_ssod.gpu_check.runner import CPU_PATIENCE, run_steps


def ends_well(setting: Setting) -> Iterator[Finding]:
    yield Fact("device", setting.device)
    yield Fact("starts processes by", multiprocessing.get_start_method())
    yield Row("time", 2.0, "s", (1.0, 3.0))
    yield Goal("ratio", 1.0, 1.0)


def misses(setting: Setting) -> Iterator[Finding]:
    yield Goal("ratio", float("nan"), 1.0)


def raises(setting: Setting) -> Iterator[Finding]:
    yield Row("before", 1.0, "")
    raise ZeroDivisionError("in the middle")


def dies(setting: Setting) -> Iterator[Finding]:
    yield Row("before", 1.0, "")
    os._exit(3)


def hangs(setting: Setting) -> Iterator[Finding]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield Row("child", child.pid, "")
    time.sleep(300)


STEPS = {function.__name__: function for function in (ends_well, misses, raises, dies, hangs)}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> CheckReport:
    folder: Path = tmp_path_factory.mktemp("check")
    report = CheckReport(folder / "report.json")
    setting = Setting("cpu", True, folder, folder)
    limits = {"hangs": 10.0 / CPU_PATIENCE}
    steps = [Step(name, function, limits.get(name, 120.0)) for name, function in STEPS.items()]
    steps += [
        Step("needs one", raises, 60.0, needs_gpu=True),
        Step("goes on", ends_well, 60.0, after="misses"),
        Step("cannot go on", ends_well, 60.0, after="raises"),
    ]
    run_steps(steps, setting, report, patience=2)
    return report


def test_each_step_says_how_it_ended(report: CheckReport) -> None:
    assert {outcome.name: outcome.state for outcome in report.outcomes} == {
        "ends_well": "passed",
        "misses": "missed",
        "raises": "failed",
        "dies": "ended",
        "hangs": "timed out",
        "needs one": "left out",
        "goes on": "passed",
        "cannot go on": "left out",
    }
    assert not report.passed
    assert "ZeroDivisionError: in the middle" in report.outcomes[2].error


def test_what_was_found_is_kept_and_saved(report: CheckReport) -> None:
    assert report._path is not None
    saved = {step["name"]: step for step in json.loads(report._path.read_text())["steps"]}
    method = multiprocessing.get_start_method()
    assert saved["ends_well"]["facts"] == {"device": "cpu", "starts processes by": method}
    assert saved["ends_well"]["rows"][0]["quartiles"] == [1.0, 3.0]
    assert saved["ends_well"]["goals"][0]["bound"] == 1.0
    for name in ("raises", "dies"):
        assert [row["name"] for row in saved[name]["rows"]] == ["before"]
    assert "misses" in report.summary()
    assert "ratio" in report.summary()


def test_a_step_that_hangs_takes_what_it_started_with_it(report: CheckReport) -> None:
    outcome = report.outcomes[4]
    child = int(outcome.rows[0].value)
    deadline = time.monotonic() + 10
    while (state := _state(child)) not in ("", "Z") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert state in ("", "Z")
    assert 20.0 <= outcome.seconds < 60.0
    assert "in hangs" in outcome.error, "where it hung"


def _state(process: int) -> str:
    """The letter of a process's state, "" where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
