"""Runs what is missing, a few runs at a time, and shows how far all of it is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from dre_ssod.errors import UserError, counted
from dre_ssod.tables.processes import CONSOLE, Started, Starter

POLL_SECONDS = 0.2


class RunFailedError(UserError):
    """A run that did not come to its end."""


@dataclass(frozen=True)
class Job:
    """A run that is to be started.

    Attributes:
        name: for people; no two jobs have the same.
        folder: of the run.
        words: of its command line.
        iterations: of the whole run.
        images: of a batch.
        begins: iterations of it that the other job does.
        after: name of the job that makes what this one starts from; "" for none. It is waited for
            until it has done so, or has ended.
        needs: the file that the other job makes.
        prepare: called right before the start.
    """

    name: str
    folder: Path
    words: list[str]
    iterations: int
    images: int
    begins: int = 0
    after: str = ""
    needs: Path | None = None
    prepare: Callable[[], None] = lambda: None


def run_all(
    jobs: Sequence[Job],
    start: Starter,
    at_once: int,
    *,
    on_end: Callable[[Job], None] = lambda job: None,
    stop_at_failure: bool = False,
    poll_seconds: float = POLL_SECONDS,
) -> dict[str, str]:
    """Run jobs, in their order where nothing is waited for, and show how far they are.

    However it ends, all runs have ended; those that were cut short have saved.

    Args:
        at_once: runs at a time.
        on_end: called after each run that came to its end. A run for which this or ``prepare``
            raises a UserError has failed.
        stop_at_failure: whether one failure ends the others.

    Returns:
        The last words of each run that failed, or what ``prepare`` or ``on_end`` said of it, by
        name.

    Raises:
        RunFailedError: at the first failure, if it is to end the others.
    """
    waiting, running = {job.name: job for job in jobs}, dict[str, tuple[Job, Started]]()
    failed: dict[str, str] = {}
    done = {job.name: iteration_of(job.folder) for job in jobs}
    bar = Progress(
        {job.name: (range(job.begins, job.iterations), job.images) for job in jobs}, done
    )

    def fail(job: Job, said: str, where: str = "") -> None:
        bar.fail(job.name, done[job.name], where or said)
        failed[job.name] = said
        if stop_at_failure:
            place = f", {where}" if where else ""
            raise RunFailedError(f"the {job.name} run failed{place}: {said}")

    try:
        while waiting or running:
            for name, job in list(waiting.items()):
                if len(running) < at_once and not _must_wait(job, waiting, running):
                    del waiting[name]
                    try:
                        running[name] = (job, _begin(job, start))
                    except UserError as error:
                        fail(job, str(error))
            time.sleep(poll_seconds)
            for name, (job, started) in list(running.items()):
                code = started.exit_code()
                done[name] = job.iterations if code == 0 else iteration_of(job.folder)
                if code is None:
                    continue
                del running[name]
                if code != 0:
                    fail(job, last_words(job.folder), f"see {job.folder / CONSOLE}")
                    continue
                try:
                    on_end(job)
                except UserError as error:
                    fail(job, str(error))
            bar.show(done, list(running) or list(done))
    finally:
        for _, started in running.values():
            started.stop()
        bar.close()
    return failed


def _begin(job: Job, start: Starter) -> Started:
    job.folder.mkdir(parents=True, exist_ok=True)
    # How far a run is, is read off what this life prints.
    (job.folder / CONSOLE).touch()
    job.prepare()
    return start(job.words, job.folder)


def _must_wait(
    job: Job, waiting: Mapping[str, Job], running: Mapping[str, tuple[Job, Started]]
) -> bool:
    other_is_ahead = job.after in waiting or job.after in running
    return other_is_ahead and not (job.needs is not None and job.needs.is_file())


def last_words(folder: Path) -> str:
    """The end of what a run has printed."""
    return " ".join(_printed(folder).splitlines()[-5:])


def iteration_of(folder: Path) -> int:
    """How many iterations a run has done, by the newest line that says so."""
    numbers = re.findall(r"eta: .* iter: (\d+)", _printed(folder))
    return int(numbers[-1]) + 1 if numbers else 0


def _printed(folder: Path) -> str:
    path = folder / CONSOLE
    return path.read_text(errors="replace") if path.is_file() else ""


class Progress:
    """One bar for all runs, by the images that they train on; few lines where no terminal is."""

    def __init__(
        self, runs: Mapping[str, tuple[range, int]], done: Mapping[str, int] | None = None
    ) -> None:
        """
        Args:
            runs: iterations that each run does itself, and images of its batch.
            done: iterations of before, which say nothing about the pace.
        """
        self._runs = dict(runs)
        self._total = self._count()
        self._first = self._images(done or {})
        self._told, self._began = 0, time.monotonic()
        self._bar = tqdm(
            total=self._total,
            initial=self._first,
            desc="training",
            disable=None,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}",
        )

    def show(self, done: Mapping[str, int], running: Sequence[str] | None = None) -> None:
        """Show how far it is.

        Args:
            done: iterations of each run.
            running: names that are shown; None for all.
        """
        images = self._images(done)
        shown = done if running is None else {name: done[name] for name in running}
        words = ", ".join(f"{name} {shown[name]}/{self._runs[name][0].stop}" for name in shown)
        if self._bar.disable:
            tenth = 10 * images // max(1, self._total)
            if tenth > self._told:
                self._told = tenth
                print(f"training {10 * tenth} %: {words}{self._left(images)}", flush=True)
            return
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(images - self._bar.n)
        self._bar.refresh()

    def fail(self, name: str, done: int, why: str) -> None:
        """Say that a run has failed, and no longer count what it had left.

        Args:
            done: iterations that it has done.
            why: or where that is said.
        """
        iterations, images = self._runs[name]
        self._runs[name] = (range(iterations.start, max(iterations.start, done)), images)
        self._total = self._bar.total = self._count()
        tqdm.write(f"{name} failed after {counted(done, 'iteration')}, {why}")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _count(self) -> int:
        return sum(len(iterations) * images for iterations, images in self._runs.values())

    def _images(self, done: Mapping[str, int]) -> int:
        return sum(
            max(0, done.get(name, 0) - iterations.start) * images
            for name, (iterations, images) in self._runs.items()
        )

    def _left(self, images: int) -> str:
        """How long the rest takes at the pace so far; "" where there is none yet, or no rest."""
        new, rest = images - self._first, self._total - images
        if new <= 0 or rest <= 0:
            return ""
        minutes = (time.monotonic() - self._began) * rest / new / 60
        return f"; {counted(round(minutes), 'minute')} left"
