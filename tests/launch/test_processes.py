"""Processes exchange tensors by the device that they compute on, whatever the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from dre_ssod.launch import processes
from dre_ssod.launch.processes import launch


def _report(folder: str) -> None:
    table = torch.tensor([comm.get_rank() + 1.0])
    dist.all_reduce(table)
    line = (
        f"{dist.get_backend()} {comm.get_local_rank()} of {comm.get_world_size()}: {table.item()}"
    )
    (Path(folder) / str(comm.get_rank())).write_text(line)


def test_processes_on_the_cpu_share_it_by_gloo(tmp_path: Path) -> None:
    launch(
        _report,
        2,
        num_machines=1,
        machine_rank=0,
        dist_url="auto",
        on_gpus=False,
        args=(str(tmp_path),),
    )
    lines = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert lines == ["gloo 0 of 2: 3.0", "gloo 1 of 2: 3.0"]


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
