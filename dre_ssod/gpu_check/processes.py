"""Process groups: NCCL as far as one GPU goes, and two processes that share one by gloo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from dre_ssod.benchmark.report import Goal, Row
from dre_ssod.benchmark.step import StepParts
from dre_ssod.engine.trainer import OWN_BUFFERS
from dre_ssod.gpu_check.findings import Fact, Finding, Setting
from dre_ssod.gpu_check.numerics import SAMPLE_ALL, gradient_error, without_tf32
from dre_ssod.gpu_check.scratch import sample_cfg

PROCESSES = 2
MAX_DIFFERENCE = 1e-3
"""Of gradients, relatively: sums in another order, and operators that add in any order."""


def nccl_alone(setting: Setting) -> Iterator[Finding]:
    """Everything that NCCL does in a run, in a group of one process.

    Two processes of NCCL cannot share a GPU, so nothing here is exchanged.
    """
    plain = _gradients(StepParts(sample_cfg(setting, {"SOLVER.IMS_PER_BATCH": 4})))
    _join("nccl", setting.folder / "nccl", rank=0, world_size=1)
    parts = StepParts(sample_cfg(setting, {"SOLVER.IMS_PER_BATCH": 4}))
    # Detectron2 wraps nothing where there is one process.
    parts.step.model = DistributedDataParallel(parts.step.model, device_ids=[0], **OWN_BUFFERS)
    wrapped = _gradients(parts)
    off = gradient_error(wrapped, plain)[0]
    yield Goal("gradients with DDP against those without", off, MAX_DIFFERENCE)
    table = torch.arange(4.0, device=setting.device)
    dist.all_reduce(table)
    dist.barrier(device_ids=[0])
    comm.synchronize()
    yield Fact("all_reduce, barrier", table.tolist())
    yield Fact("gather of objects", comm.gather({"rank": comm.get_rank()}))
    dist.destroy_process_group()


def two_by_gloo(setting: Setting) -> Iterator[Finding]:
    """Two processes on one device against one on the same images; then three steps."""
    folder = setting.folder / "gloo"
    folder.mkdir(exist_ok=True)
    with without_tf32():
        parts = StepParts(sample_cfg(setting, _OVERRIDES))
        alone = _gradients(parts)
    threshold = parts.step.method.settings.score_threshold
    # A process of the check has such a server already, which has imported everything.
    get_context("forkserver").set_forkserver_preload([__name__])
    start_processes(
        _worker, (setting, str(folder), threshold), nprocs=PROCESSES, start_method="forkserver"
    )
    first, second = (
        torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(PROCESSES)
    )
    off = gradient_error(first["gradients"], alone)[0]
    yield Goal("two processes against one", off, MAX_DIFFERENCE)
    for model in ("student", "teacher"):
        differ = [n for n, t in first[model].items() if not torch.equal(t, second[model][n])]
        yield Goal(f"tensors of the {model} in which they differ after three steps", len(differ), 0)
    yield Row("processes", PROCESSES, "")


# Images of one size, since padding beside an image changes what is found in it. Every anchor
# becomes a proposal: which of two that score alike is kept, rounding decides, which differs with
# the batch.
_OVERRIDES = {
    "INPUT.MIN_SIZE_TRAIN": (128, 128),
    "SOLVER.IMS_PER_BATCH": 2 * PROCESSES,
    "MODEL.RPN.NMS_THRESH": 1.0,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 10**6,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 10**6,
    **SAMPLE_ALL,
}


def _worker(rank: int, setting: Setting, folder: str, threshold: float) -> None:
    # As if each had a machine of its own, so that both take the only GPU.
    _join("gloo", Path(folder), rank, PROCESSES)
    with without_tf32():
        parts = StepParts(sample_cfg(setting, _OVERRIDES))
        # Its own would depend on its share of the images.
        method = parts.step.method
        method.settings = replace(method.settings, score_threshold=threshold)
        found: dict[str, Any] = {"gradients": _gradients(parts)}
        for group in parts.step.optimizer.param_groups:
            group["lr"] = 1e-3
        for _ in range(3):
            parts.whole()
    student: Any = parts.trainer.student
    for name, model in (("student", student), ("teacher", parts.step.teacher)):
        found[name] = {n: t.cpu() for n, t in model.state_dict().items()}
    torch.save(found, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def _join(backend: str, folder: Path, rank: int, world_size: int) -> None:
    folder.mkdir(exist_ok=True)
    if torch.cuda.is_available():
        torch.cuda.set_device(0)
    address = f"file://{folder}/rendezvous"
    dist.init_process_group(backend, init_method=address, world_size=world_size, rank=rank)
    comm.create_local_process_group(1)


def _gradients(parts: StepParts) -> dict[str, Tensor]:
    """Of one pass with random numbers of its own, by the student's names."""
    step = parts.step
    step.optimizer.zero_grad()
    torch.manual_seed(0)
    with EventStorage():
        losses = step.compute_losses(parts.batch)
    losses.total(step.weight).backward()
    student: Any = parts.trainer.student
    return {n: p.grad.cpu() for n, p in student.named_parameters() if p.grad is not None}
