from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from detectron2.engine import TrainerBase
from detectron2.utils.events import CommonMetricPrinter, EventStorage, EventWriter

from dre_ssod.engine.hooks.writers import WINDOW, FigurePrinter, MetricsFile, ResumingWriter


class Run(TrainerBase):
    """Writes figures whose smoothed values need the iterations before them."""

    def __init__(
        self,
        folder: Path,
        state: dict[str, Any] | None = None,
        stop_at: int | None = None,
        consoles: Sequence[EventWriter] = (),
    ) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.writer = ResumingWriter([*consoles, MetricsFile(folder / "metrics.json")])
        if state is not None:
            self.writer.load_state_dict(state)
        self.register_hooks([self.writer])
        self.states: dict[int, dict[str, Any]] = {}

    def run_step(self) -> None:
        if self.iter == self.stop_at:
            raise InterruptedError
        # Detectron2's RPN writes twice an iteration where there are unlabeled images.
        for part in (0.0, 0.5):
            self.storage.put_scalar("twice", (self.iter * 7) % 10 + part)
        self.storage.put_scalar("once", (self.iter * 3) % 17)
        self.storage.put_scalar("lr", 0.1 * self.iter, smoothing_hint=False)
        self.storage.put_scalar("time", 123.0)
        if self.iter % 15 == 0:
            self.storage.put_scalar("AP", float(self.iter), smoothing_hint=False)

    def after_step(self) -> None:
        super().after_step()
        self.states[self.iter] = self.writer.state_dict()


def lines(folder: Path) -> list[dict[str, float]]:
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        line.pop("time", None)
    return found


@pytest.mark.parametrize(("first", "shown"), [(0, [0, 19, 24]), (19, [19, 24]), (21, [21, 24])])
def test_the_console_shows_the_first_iteration_at_once(
    first: int, shown: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "detectron2"):
        Run(tmp_path, consoles=[CommonMetricPrinter(25)]).train(first, 25)
    assert [int(n) for n in re.findall(r"iter: (\d+)", caplog.text)] == shown


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 65 iterations that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    Run(folder).train(0, 65)
    return folder


@pytest.mark.parametrize("checkpoint", [3, 18, 19, 20, 29, 30, 31, 44, 59, 63, 64])
@pytest.mark.parametrize("lost", [0, 1, 25])
def test_a_resumed_file_is_that_of_a_run_without_a_break(
    whole: Path, tmp_path: Path, checkpoint: int, lost: int
) -> None:
    first = Run(tmp_path, stop_at=checkpoint + 1 + lost)
    # Stopping writes what an uninterrupted run would not, and some iterations are done again.
    with contextlib.suppress(InterruptedError):
        first.train(0, 65)
    Run(tmp_path, first.states[checkpoint]).train(checkpoint + 1, 65)
    assert lines(tmp_path) == lines(whole)


def test_a_line_that_was_cut_off_is_taken_away(whole: Path, tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.train(0, 30)
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iterat')
    Run(tmp_path, first.states[24]).train(25, 65)
    assert lines(tmp_path) == lines(whole)


def test_a_new_run_keeps_the_figures_of_one_that_left_no_checkpoint(tmp_path: Path) -> None:
    for number in range(3):
        Run(tmp_path).train(0, 20 + number)
    assert [line["iteration"] for line in lines(tmp_path)][-1] == 21
    old = sorted(path.name for path in tmp_path.iterdir())
    assert old == ["metrics.json", "metrics_1.json", "metrics_2.json"]


def test_another_file_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Run(tmp_path)
    first.train(0, 30)
    (tmp_path / "metrics.json").write_text('{"note": "' + "x" * 5000 + '"}\n')
    with caplog.at_level("WARNING"):
        Run(tmp_path, first.states[24]).train(25, 30)
    assert "is not the file of this run" in caplog.text
    assert "note" in lines(tmp_path)[0]


def test_of_a_file_that_has_lost_its_end_the_torn_line_is_taken_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint outlives the crash of a machine that takes the end of other files."""
    first = Run(tmp_path)
    first.train(0, 60)
    path, before = tmp_path / "metrics.json", lines(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with caplog.at_level("WARNING"):
        Run(tmp_path, first.states[59]).train(60, 80)
    assert "metrics.json has lost figures of before" in caplog.text
    after = lines(tmp_path)
    assert after[: len(before) - 1] == before[:-1]
    assert 79 in {line["iteration"] for line in after[len(before) - 1 :]}


def test_a_missing_file_begins_anew(tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.train(0, 30)
    (tmp_path / "metrics.json").unlink()
    Run(tmp_path, first.states[24]).train(25, 41)
    assert lines(tmp_path)[0]["iteration"] > 24


@pytest.fixture
def heard(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What the project logs from INFO on."""
    monkeypatch.setattr(logging.getLogger("dre_ssod"), "propagate", True)
    caplog.set_level("INFO", "dre_ssod")
    return caplog


def test_the_printer_shows_the_median_of_the_figures_only(
    heard: pytest.LogCaptureFixture,
) -> None:
    printer = FigurePrinter()
    with EventStorage(0) as storage:
        printer.write()
        assert not heard.records
        for iteration in range(WINDOW + 3):
            storage.iter = iteration
            value = 50.0 if iteration < 3 else iteration % 5
            storage.put_scalars(**{"ssod/sigma": value, "total_loss": 9.0, "ssod/a": 0.123456})
        printer.write()
    assert [r.getMessage() for r in heard.records] == ["  ssod  a: 0.1235  sigma: 2"]


def test_the_printer_leaves_out_what_the_last_iterations_had_not(
    heard: pytest.LogCaptureFixture,
) -> None:
    printer = FigurePrinter()
    with EventStorage(0) as storage:
        for iteration in range(2 * WINDOW):
            storage.iter = iteration
            storage.put_scalars(**{"ssod/a": 1.0})
            if iteration < WINDOW:
                storage.put_scalars(**{"ssod/pseudo_score": 0.9})
            if iteration in (WINDOW - 1, 2 * WINDOW - 2, 2 * WINDOW - 1):
                printer.write()
    # Of the last but one, the figures go back to the last one that had the score.
    both = "  ssod  a: 1  pseudo_score: 0.9"
    assert [r.getMessage() for r in heard.records] == [both, both, "  ssod  a: 1"]
