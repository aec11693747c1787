"""Processes exchange tensors by the device that they compute on, whatever the machine has."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from dre_ssod.launch import processes
from dre_ssod.launch.program import launch_processes, run_program


def _report(folder: str) -> None:
    table = torch.tensor([comm.get_rank() + 1.0])
    dist.all_reduce(table)
    line = (
        f"{dist.get_backend()} {comm.get_local_rank()} of {comm.get_world_size()}: {table.item()}"
    )
    (Path(folder) / str(comm.get_rank())).write_text(line)


@pytest.mark.parametrize("on_gpus", [True, False])
def test_only_processes_on_gpus_take_one_each_and_nccl(
    monkeypatch: pytest.MonkeyPatch, on_gpus: bool
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: calls.append(backend))
    monkeypatch.setattr(comm, "create_local_process_group", lambda _: None)
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    processes._Group("tcp://127.0.0.1:1", 2, 1, 0, on_gpus).join(1)
    assert calls == ([1, "nccl"] if on_gpus else ["gloo"])


def _report_and_lose(args: argparse.Namespace) -> None:
    """After their reports one process is killed, and the other waits for it."""
    _report(args.folder)
    comm.synchronize()
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.zeros(1))


def test_processes_share_the_cpu_by_gloo_and_a_killed_one_is_named_with_advice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(
        num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", config_file="", opts=[]
    )
    args.opts = ["MODEL.DEVICE", "cpu"]
    args.folder = str(tmp_path)
    with pytest.raises(SystemExit) as ended:
        launch_processes(_report_and_lose, args)
    assert ended.value.code == 137
    lines = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert lines == ["gloo 0 of 2: 3.0", "gloo 1 of 2: 3.0"]
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out
    message = " ".join(printed.err.split())
    assert "error: process 1 of the run was ended by SIGKILL" in message
    assert "lack of memory" in message
    assert "--resume" in message


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.1.1]:38", True),
        ("[/pytorch/gloo/transport/tcp/pair.cc:144] read: Connection reset by peer", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("shape '[2]' is invalid for input of size 3", False),
    ],
)
def test_the_end_of_another_process_is_told_from_a_mistake(
    text: str, lost: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise RuntimeError(text)

    if not lost:
        with pytest.raises(RuntimeError):
            run_program(main)
        return
    assert run_program(main) == 2
    assert "another process of this run has ended" in " ".join(capsys.readouterr().err.split())
