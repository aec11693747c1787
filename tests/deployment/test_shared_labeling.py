"""A labeling job that is interrupted, or that processes share: what is written stays the same."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from dre_ssod.deployment.labeling import bulk_labeling
from dre_ssod.deployment.labeling.bulk_labeling import label_missing
from dre_ssod.deployment.labeling.label_merge import last_merge, merge, merge_since, note_merge
from dre_ssod.deployment.labeling.labeling_job import LabelingJob, prepare
from dre_ssod.locks import Claims
from tests.deployment.labeling_jobs import job_in, merged, read, run


def test_an_interrupted_job_gives_the_identical_files(
    finished: LabelingJob, cfg: CfgNode, images: Path, tmp_path: Path
) -> None:
    job = job_in(tmp_path / "job", images)
    prepare(job, cfg)
    next(label_missing(job, cfg))
    (path,) = (job.folder / "chunks").glob("*.jsonl")
    # What processes leave that are killed while they write, and one that is at it.
    partial = [path.with_name(f"00000{n}.jsonl.0123abcd.partial") for n in range(2)]
    for rest in partial:
        rest.write_text('{"id": 7, "fi')
    os.utime(partial[0], (0, 0))
    before = path.stat().st_mtime_ns
    assert run(job, cfg) == read(finished)
    assert path.stat().st_mtime_ns == before
    assert [rest.exists() for rest in partial] == [False, True]


class Claimer:
    """A process that has claimed a chunk and does not get on with it."""

    def __init__(self, job: LabelingJob, chunk: int) -> None:
        reading, writing = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            with Claims(job.folder / ".chunks.lock") as claims:
                os.write(writing, b"y" if claims.take(chunk) else b"n")
                signal.pause()
        assert os.read(reading, 1) == b"y"

    def kill(self) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)


@pytest.fixture
def prepared(cfg: CfgNode, images: Path, tmp_path: Path) -> LabelingJob:
    """A job of which no chunk is labeled yet."""
    job = job_in(tmp_path / "job", images)
    prepare(job, cfg)
    return job


def test_the_chunk_of_a_killed_process_is_taken_over(
    finished: LabelingJob, prepared: LabelingJob, cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the others, which do not touch it before."""
    waited: list[float] = []
    claimer = Claimer(prepared, 1)

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            claimer.kill()

    monkeypatch.setattr(bulk_labeling.time, "sleep", wait)
    assert sorted(label_missing(prepared, cfg)) == [2, 3, 3]
    assert waited == [1.0, 1.0]
    assert merged(prepared) == read(finished)


def test_the_chunk_of_a_process_that_hangs_is_labeled_again(
    finished: LabelingJob, prepared: LabelingJob, cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_labeling, "PATIENCE", 0.0)
    claimer = Claimer(prepared, 1)
    try:
        assert run(prepared, cfg) == read(finished)
    finally:
        claimer.kill()


def test_processes_that_come_at_any_time_share_a_job(
    finished: LabelingJob, cfg: CfgNode, images: Path, tmp_path: Path
) -> None:
    """Nothing is labeled twice while claims are seen."""
    job = job_in(tmp_path / "job", images, chunk_images=1)
    prepare(job, cfg)
    first = label_missing(job, cfg)
    counts = [next(first)]
    context = multiprocessing.get_context("fork")
    counted = context.Value("i", 0)

    def join() -> None:
        counted.value = sum(label_missing(job, cfg))

    later = context.Process(target=join)
    later.start()
    counts += list(first)
    later.join()
    assert later.exitcode == 0
    assert sum(counts) + counted.value == 8
    assert merged(job) == read(finished)


def test_a_job_interrupted_before_its_list_was_whole_starts_anew(
    finished: LabelingJob, cfg: CfgNode, images: Path, tmp_path: Path
) -> None:
    job = job_in(tmp_path / "job", images)
    prepare(job, cfg)
    (job.folder / "settings.json").unlink()
    (job.folder / "chunks").rmdir()
    (job.folder / "manifest.jsonl").write_text("[1")
    expected = (finished.folder / "pseudo_labels.json").read_bytes()
    assert run(job, cfg)["pseudo_labels.json"] == expected


def test_one_of_the_processes_of_a_job_merges(
    finished: LabelingJob, cfg: CfgNode, images: Path, tmp_path: Path
) -> None:
    """The others, which began before that, are told what came out; other arguments are another."""
    folder = shutil.copytree(finished.folder, tmp_path / "job")
    before = last_merge(folder)
    assert merge_since(folder, before, {"label_next": 3}) is None
    summary = merge(replace(finished, folder=folder), 3, "both")
    note_merge(folder, {"label_next": 3}, summary)
    assert merge_since(folder, before, {"label_next": 3}) == summary
    assert merge_since(folder, before, {"label_next": 4}) is None
    # One that begins now does it again.
    assert merge_since(folder, last_merge(folder), {"label_next": 3}) is None
