"""Runs that are killed, resumed and told to stop end as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import ROOT
from tests.engine.resume_harness import (
    MOMENTS,
    OVERRIDES,
    Life,
    differences,
    end_state,
    live,
    random_kills,
)
from tests.tiny_dataset import TinyDataset, tiny_run

KILLED = -signal.SIGKILL
AMP = {"SOLVER.AMP.ENABLED": True}


class Reference:
    """Uninterrupted runs by number of processes and AMP, each made when it is first asked for."""

    def __init__(self, data: TinyDataset, folder: Path) -> None:
        self._data = data
        self._folder = folder
        self._states: dict[tuple[int, bool], dict[str, str]] = {}
        self.duration: dict[tuple[int, bool], float] = {}

    def state(self, processes: int = 1, amp: bool = False) -> dict[str, str]:
        key = processes, amp
        if key not in self._states:
            folder = self._folder / f"{processes}{amp}"
            start = time.monotonic()
            life = Life(overrides=AMP if amp else {}, processes=processes)
            codes = live(self._data, folder, life)
            assert codes == [0] * processes, (folder / "log.txt.life0").read_text()[-3000:]
            self.duration[key] = time.monotonic() - start
            self._states[key] = end_state(folder)
        return self._states[key]


@pytest.fixture(scope="module")
def reference(data: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(data, tmp_path_factory.mktemp("reference"))


def test_three_kills_leave_no_trace(
    data: TinyDataset, reference: Reference, tmp_path: Path
) -> None:
    """Halfway through writing a checkpoint, in an evaluation, and in a step."""
    folder = tmp_path / "run"
    for kill, workers in ((("write", 9), 0), (("evaluation", 17), 1), (("step", 21), 0)):
        life = Life({"DATALOADER.NUM_WORKERS": workers}, kill=kill)
        assert live(data, folder, life) == [KILLED], kill
    assert live(data, folder, Life()) == [0]
    assert not differences(end_state(folder), reference.state())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_run_that_is_told_to_stop_goes_on_from_there(
    data: TinyDataset, reference: Reference, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "run"
    assert live(data, folder, Life(send=(number, 6))) == [code]
    # Not at the end of a period: the signal saved it, within the iteration.
    assert (folder / "last_checkpoint").read_text() == "model_0000006.pth"
    if number == signal.SIGTERM:
        assert live(data, folder, Life()) == [0]
        assert not differences(end_state(folder), reference.state())


def test_two_processes_stop_together_and_go_on(
    data: TinyDataset, reference: Reference, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert live(data, folder, Life(processes=2, send=(signal.SIGTERM, 12))) == [143, 143]
    assert (folder / "last_checkpoint").read_text() == "model_0000012.pth"
    assert live(data, folder, Life(processes=2)) == [0, 0]
    assert not differences(end_state(folder), reference.state(processes=2))


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("iteration", [9, 17, 21])
def test_a_kill_at_any_moment_leaves_no_trace(
    data: TinyDataset, reference: Reference, tmp_path: Path, moment: str, iteration: int
) -> None:
    """Iteration 9 ends with a checkpoint, 17 with an evaluation, 21 is the last."""
    folder = tmp_path / "run"
    codes = live(data, folder, Life(kill=(moment, iteration)))
    if moment == "evaluation" and iteration == 9:
        assert codes == [0]
    else:
        assert codes == [KILLED]
        assert live(data, folder, Life({"DATALOADER.NUM_WORKERS": 1})) == [0]
    assert not differences(end_state(folder), reference.state())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "amp", "kills"), [(1, False, 8), (1, True, 6), (2, False, 6), (2, True, 4)]
)
def test_random_kills_leave_no_trace(
    data: TinyDataset, reference: Reference, tmp_path: Path, processes: int, amp: bool, kills: int
) -> None:
    expected = reference.state(processes, amp)

    def choose(rng: np.random.Generator) -> Life:
        workers = {"DATALOADER.NUM_WORKERS": int(rng.integers(0, 3))}
        return Life(workers | AMP if amp else workers, processes=processes)

    rng = np.random.default_rng([processes, amp])
    duration = reference.duration[processes, amp]
    killed = random_kills(data, tmp_path / "run", rng, kills, duration, choose)
    assert killed > 0
    assert not differences(end_state(tmp_path / "run"), expected)


@pytest.mark.slow
def test_torchrun_starts_a_killed_process_anew_by_itself(
    data: TinyDataset, reference: Reference, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    config = tmp_path / "config.yaml"
    overrides = {**OVERRIDES, "SOLVER.IMS_PER_BATCH": 4}
    config.write_text(tiny_run(data, folder, **overrides).dump(), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", "3", str(ROOT / "train_net.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = (tmp_path / "log.txt").open("w")
    with subprocess.Popen(
        [*command, "--config-file", str(config)],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    ) as agent:
        # As soon as there is a checkpoint, one of the two processes dies.
        while not (folder / "last_checkpoint").exists() and agent.poll() is None:
            time.sleep(0.05)
        os.kill(_trainers_of(agent.pid)[-1], signal.SIGKILL)
        code = agent.wait()
    text = (tmp_path / "log.txt").read_text()
    assert code == 0, text[-3000:]
    assert "exitcode: -9" in text
    expected, found = reference.state(processes=2), end_state(folder)
    weights = [name for name in expected if name.startswith("model_final.pth")]
    assert weights
    assert not differences({n: found[n] for n in weights}, {n: expected[n] for n in weights})


def _trainers_of(agent: int) -> list[int]:
    """Processes that torchrun started; it is their parent."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"train_net.py" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
