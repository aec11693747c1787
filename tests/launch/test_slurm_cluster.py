"""On a real Slurm of one machine: a job that makes room is requeued, and nothing tells of it."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dre_ssod.data.conversion.packing import pack
from dre_ssod.runs.detector import entry_for_weights
from tests.engine.resume_harness import OVERRIDES, differences, end_of
from tests.factories import tiny_cfg, tiny_model
from tests.launch import slurm_cluster
from tests.tiny_dataset import TinyDataset, loggers_kept, tiny_run, write_tiny_dataset
from tools import pseudo_label, submit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing()),
]
LONGEST = 900.0


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of programs that use it."""
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as environment:
        yield environment


@pytest.fixture
def data(tmp_path: Path) -> TinyDataset:
    return write_tiny_dataset(tmp_path / "data")


@pytest.fixture(autouse=True)
def _in_it(slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are given from a folder that is none of the project's."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm[name])
    monkeypatch.chdir(tmp_path)


def submitted(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Path]:
    """Submit a command; gives the file of each job that its first process prints into."""
    assert submit.run(words) == 0
    found = re.findall(r"^job (\S+): prints into (.+)$", capsys.readouterr().out, re.MULTILINE)
    return {job: Path(path) for job, path in found}


def wait(jobs: dict[str, Path]) -> None:
    """Until they have ended well."""
    deadline = time.monotonic() + LONGEST
    for job, path in jobs.items():
        result = path.with_name(f"{job}_0_result.pkl")
        while not result.exists():
            assert time.monotonic() < deadline, told(path)
            time.sleep(0.5)
        assert "Job completed successfully" in told(path)


def ask_for_room(job: str, path: Path, once: Callable[[], bool]) -> None:
    """Send a job what Slurm sends before the time limit."""
    deadline = time.monotonic() + LONGEST
    while not once():
        assert time.monotonic() < deadline, told(path)
        time.sleep(0.05)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)


def told(path: Path) -> str:
    """What a process has printed."""
    files = [file for file in (path, path.with_suffix(".err")) if file.exists()]
    return "\n".join(file.read_text() for file in files)


def test_a_training_from_a_bucket_that_makes_room_is_the_one_from_the_disk_left_alone(
    data: TinyDataset,
    bucket: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two processes each, with unlabeled images in shards."""
    pack(data.unlabeled, data.root / "packed", "more", per_shard=3, labels=False)
    bucket.put(f"{data.root}/", "data/tiny/", recursive=True)
    monkeypatch.setenv("DRE_SSOD_CACHE", str(tmp_path / "cache"))
    roots = {"left": str(data.root), "asked": "s3://data/tiny"}
    jobs = {}
    for name, root in roots.items():
        labeled = (f"coco://{root}/train.json?images={root}/train",)
        overrides = {
            **OVERRIDES,
            "SOLVER.IMS_PER_BATCH": 4,
            "DATALOADER.NUM_WORKERS": 1,
            "DATASETS.TRAIN": labeled,
            "DATASETS.TEST": labeled,
            "DATASETS.UNLABELED": (f"shards://{root}/packed/more-*.tar",),
        }
        config = tmp_path / f"{name}.yaml"
        config.write_text(tiny_run(data, tmp_path / name, **overrides).dump(), encoding="utf-8")
        words = ("--processes", "2", "train_net.py", "--config-file", str(config))
        jobs[name] = submitted(capsys, *words)
    [(job, path)] = jobs["asked"].items()
    ask_for_room(job, path, (tmp_path / "asked" / "last_checkpoint").exists)
    wait(jobs["asked"])
    wait(jobs["left"])
    text = told(path)
    assert "SIGTERM: saving a checkpoint." in text
    assert "Requeued job" in text
    assert "Starting training from iteration" in text
    left, asked = (end_of(tmp_path / name, root) for name, root in roots.items())
    assert "model_final.pth/iteration" in left
    assert not differences(asked, left)


def test_an_array_of_labeling_jobs_of_which_one_makes_room_writes_what_one_process_writes(
    data: TinyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny_cfg(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.2})
    run = entry_for_weights(cfg, [{"id": n, "name": name} for n, name in enumerate("abc", 1)])
    content = {"model": tiny_model(cfg, spread=0.5).state_dict(), "run": run}
    torch.save(content, tmp_path / "model.pth")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(300):
        (images / f"{number}.png").hardlink_to(data.root / "more" / f"u{number % 4}.png")
    words = f"--run {tmp_path}/model.pth --input {images} --chunk 5 --min-score 0.4".split()
    several = ("--jobs", "2", "tools/pseudo_label.py", "--output", "several", *words)
    jobs = submitted(capsys, *several)
    job, path = next(iter(jobs.items()))
    ask_for_room(job, path, lambda: "of 300 images" in told(path))
    wait(jobs)
    assert "Requeued job" in told(path)
    with loggers_kept():
        assert pseudo_label.run(["--output", "one", *words]) == 0
    for name in ("pseudo_labels.json", "label_next.json"):
        found, expected = (tmp_path / folder / name for folder in ("several", "one"))
        assert found.read_bytes() == expected.read_bytes()
