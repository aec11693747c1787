"""The tool, from a command line to what Slurm is given."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests import ROOT
from tests.launch.pretended_slurm import JOB, PretendedSlurm

CONFIG = str(ROOT / "configs" / "quickstart.yaml")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendedSlurm:
    monkeypatch.chdir(tmp_path)
    return PretendedSlurm(tmp_path / "commands", monkeypatch)


def test_a_training_becomes_a_job_of_several_processes(
    tool: ModuleType, slurm: PretendedSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--nodes 2 --processes 4 --slurm slurm_partition=gpu,gpus_per_node=4 train_net.py"
    assert tool.run([*words.split(), "--config-file", CONFIG, "SOLVER.IMS_PER_BATCH", "16"]) == 0
    folder = tmp_path / "output" / "slurm"
    assert capsys.readouterr().out == f"job {JOB}: prints into {folder}/{JOB}_0_log.out\n"
    asked = (folder / f"{JOB}_submission.sh").read_text().splitlines()
    flags = ["nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "job-name=train_net"]
    assert {f"#SBATCH --{flag}" for flag in flags} <= {*asked}


def test_labeling_becomes_an_array(
    tool: ModuleType, slurm: PretendedSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--jobs 3 --folder jobs tools/pseudo_label.py --run run --input photos --output labeled"
    assert tool.run(words.split()) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        f"job {JOB}_{n}: prints into {tmp_path}/jobs/{JOB}_{n}_0_log.out" for n in range(3)
    ]
    assert len(list((tmp_path / "jobs").glob("*_submitted.pkl"))) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train_net.py", "SOLVER.MAX_ITTER", "5"], "SOLVER.MAX_ITTER"),
        (["--processes", "3", "train_net.py", "SOLVER.IMS_PER_BATCH", "16"], "a multiple of 6"),
        (["train_net.py", "OUTPUT_DIR", "old"], "already holds the checkpoints"),
    ],
)
def test_a_training_that_cannot_start_is_not_submitted(
    tool: ModuleType,
    slurm: PretendedSlurm,
    tmp_path: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model_0000009.pth").touch()
    start = words.index("train_net.py") + 1
    assert tool.run([*words[:start], "--config-file", CONFIG, *words[start:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--nodes 0 train_net.py", "--nodes: 0 is less than 1"),
        ("--jobs 2 train_net.py", "--jobs are of tools/pseudo_label.py"),
        ("--slurm gpu train_net.py", "--slurm is 'gpu'; it must be KEY=VALUE"),
        ("tools/demo.py", "invalid choice: 'tools/demo.py'"),
        ("train_net.py --num-gpus 2", "--num-gpus: Slurm starts the processes"),
        ("train_net.py --num-machines 2", "--num-machines: Slurm starts the processes"),
        ("train_net.py --slurm a=b", "train_net.py: error: "),
        ("tools/pseudo_label.py --input photos", "pseudo_label.py: error: the following"),
    ],
)
def test_command_lines_that_cannot_be_are_refused(
    tool: ModuleType, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        tool.parse_arguments(words.split())
    assert message in capsys.readouterr().err
