"""Runs in their order, a few at a time; and how far all of it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dre_ssod.tables.filed import ResultError
from dre_ssod.tables.processes import CONSOLE
from dre_ssod.tables.schedule import Job, Progress, RunFailedError, iteration_of, run_all


class FakeRuns:
    """Starts runs that take so many polls, and notes what happens."""

    def __init__(self, polls: dict[str, int], codes: dict[str, int] | None = None) -> None:
        self._polls, self._codes = polls, codes or {}
        self.events: list[str] = []
        self.most = self.now = 0
        self.act: Callable[[str, int], None] = lambda name, left: None

    def __call__(self, words: list[str], folder: Path) -> FakeRun:
        self.events.append(f"start {folder.name}")
        self.now += 1
        self.most = max(self.most, self.now)
        return FakeRun(self, folder.name, self._polls[folder.name], self._codes.get(folder.name, 0))


class FakeRun:
    def __init__(self, runs: FakeRuns, name: str, left: int, code: int) -> None:
        self._runs, self._name, self._left, self._code = runs, name, left, code

    def exit_code(self) -> int | None:
        self._left -= 1
        self._runs.act(self._name, self._left)
        if self._left > 0:
            return None
        self._runs.now -= 1
        self._runs.events.append(f"end {self._name}")
        return self._code

    def stop(self) -> None:
        self._runs.events.append(f"stop {self._name}")


def jobs(folder: Path, *names: str, **after: str) -> list[Job]:
    return [
        Job(
            *(name, folder / name, [], 10, 4),
            after=after.get(name, ""),
            needs=folder / after[name] / "made" if name in after else None,
        )
        for name in names
    ]


def test_so_many_run_at_a_time_in_their_order(tmp_path: Path) -> None:
    fake = FakeRuns({"a": 3, "b": 1, "c": 1, "d": 1})
    ended: list[str] = []
    failed = run_all(
        jobs(tmp_path, "a", "b", "c", "d"),
        *(fake, 2),
        on_end=lambda job: ended.append(job.name),
        poll_seconds=0.0,
    )
    assert failed == {}
    assert fake.most == 2
    assert [e for e in fake.events if e.startswith("start")] == [f"start {n}" for n in "abcd"]
    assert sorted(ended) == ["a", "b", "c", "d"]


def test_a_run_waits_for_what_it_starts_from_and_no_longer(tmp_path: Path) -> None:
    fake = FakeRuns({"donor": 9, "taker": 1, "other": 1})

    def make_at_half(name: str, left: int) -> None:
        if name == "donor" and left == 4:
            (tmp_path / "donor" / "made").touch()
            fake.events.append("made")

    fake.act = make_at_half
    run_all(jobs(tmp_path, "donor", "taker", "other", taker="donor"), fake, 3, poll_seconds=0.0)
    # One that waits does not hold up the next.
    assert fake.events == [
        *("start donor", "start other", "end other"),
        *("made", "start taker", "end taker", "end donor"),
    ]


def test_a_donor_that_fails_is_not_waited_for(tmp_path: Path) -> None:
    fake = FakeRuns({"donor": 2, "taker": 1}, codes={"donor": 1})
    failed = run_all(jobs(tmp_path, "donor", "taker", taker="donor"), fake, 2, poll_seconds=0.0)
    assert list(failed) == ["donor"]
    assert fake.events[-1] == "end taker"


def test_a_run_that_failed_is_not_shown_as_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRuns({"one": 2, "other": 5}, codes={"one": 143})
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / CONSOLE).write_text("eta: 0:08:08  iter: 3  total_loss: 1.1\n")

    def get_on(name: str, left: int) -> None:
        if name == "other":
            (tmp_path / "other" / CONSOLE).write_text(f"eta: 1  iter: {7 - left}  total\n")

    fake.act = get_on
    run_all(jobs(tmp_path, "one", "other"), fake, 2, poll_seconds=0.0)
    printed = capsys.readouterr().out.splitlines()
    assert f"one failed after 4 iterations, see {tmp_path / 'one' / CONSOLE}" in printed
    # 10 of 14 iterations, not 16 of 20.
    assert "training 70 %: other 6/10" in [line.partition(";")[0] for line in printed]
    assert printed[-1].startswith("training 100 %: ")
    assert not any("one 10/10" in line for line in printed)


def test_an_end_that_cannot_be_used_is_a_failure_of_that_run_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse_one(job: Job) -> None:
        if job.name == "one":
            raise ResultError("results.json of one is empty")

    fake = FakeRuns({"one": 1, "other": 5, "last": 1})
    runs = jobs(tmp_path, "one", "other", "last")
    failed = run_all(runs, fake, 2, on_end=refuse_one, poll_seconds=0.0)
    assert failed == {"one": "results.json of one is empty"}
    assert fake.events[-1] == "end other"
    assert "end last" in fake.events
    said = "one failed after 10 iterations, results.json of one is empty"
    assert said in capsys.readouterr().out.splitlines()


def test_a_run_that_cannot_begin_is_a_failure_of_that_run_alone(tmp_path: Path) -> None:
    def refuse() -> None:
        raise ResultError("the folder holds another run")

    fake = FakeRuns({"one": 3, "last": 1})
    one, other, last = jobs(tmp_path, "one", "other", "last")
    runs = [one, replace(other, prepare=refuse), last]
    failed = run_all(runs, fake, 2, poll_seconds=0.0)
    assert failed == {"other": "the folder holds another run"}
    assert fake.events == ["start one", "start last", "end last", "end one"]
    with pytest.raises(RunFailedError, match="the other run failed: the folder holds"):
        run_all(runs, fake, 2, stop_at_failure=True, poll_seconds=0.0)
    assert fake.events[-1] == "stop one"


def test_a_failure_may_end_the_others_and_says_why(tmp_path: Path) -> None:
    fake = FakeRuns({"one": 1000, "other": 2}, codes={"other": 3})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / CONSOLE).write_text("first\nlast of other\n")
    with pytest.raises(RunFailedError, match=r"the other run failed, see .*: first last of other"):
        run_all(jobs(tmp_path, "one", "other"), fake, 2, stop_at_failure=True, poll_seconds=0.0)
    assert fake.events[-1] == "stop one"


def test_progress_is_by_the_newest_line_with_an_iteration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert iteration_of(tmp_path) == 0
    console = tmp_path / CONSOLE
    console.write_text("[date] loading\n")
    assert iteration_of(tmp_path) == 0
    console.write_text("[1] eta: 0:09  iter: 19  loss: 1\n[2] eta: 0:05  iter: 39  x\n[3] saved\n")
    assert iteration_of(tmp_path) == 40
    # Without a terminal a line each tenth, weighted by the images of a batch; one of before counts
    # for nothing in the time that is left.
    bar = Progress({"a": (range(10), 4), "b": (range(10), 12)}, {"a": 10})
    for done in range(10):
        bar.show({"a": 10, "b": done})
    bar.show({"a": 10, "b": 10})
    bar.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training 20 %: a 10/10, b 0/10"
    assert re.fullmatch(r"training 30 %: a 10/10, b 1/10; \d+ minutes left", lines[1])
    assert lines[-1] == "training 100 %: a 10/10, b 10/10"
    assert len(lines) == 9


def test_an_estimate_takes_the_pace_of_this_life(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 600.0, 1140.0])
    monkeypatch.setattr("dre_ssod.tables.schedule.time.monotonic", lambda: next(clock))
    bar = Progress({"a": (range(100), 1)}, {"a": 40})
    # 20 images in ten minutes leave 40 for twenty.
    bar.show({"a": 60})
    bar.show({"a": 98})
    told = [line.partition("; ")[2] for line in capsys.readouterr().out.splitlines()]
    assert told == ["20 minutes left", "1 minute left"]
