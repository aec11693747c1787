"""The rules of a GPU, one by one, and that a step that breaks one is caught; see also
``tests/engine/test_on_a_pretended_gpu.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from detectron2.config import CfgNode
from torch import Tensor

from dre_ssod.benchmark.pretended_gpu import GPU, HOST, DeviceFault, pretended_gpu
from dre_ssod.benchmark.step import StepParts
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.transfers import HostCopy

CUDA = torch.device("cuda")
BOXES = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0]])
Task = Callable[[Tensor, Tensor], Any]
"""Given [1, 0, 2, 3] on the GPU, and on the host."""

WAITING: dict[str, Task] = {
    "item": lambda x, _: x.sum().item(),
    "truth of a tensor": lambda x, _: bool(x.any()),
    "float": lambda x, _: float(x[0]),
    "list": lambda x, _: x.tolist(),
    "copy to the host": lambda x, _: x.cpu(),
    "the same by name": lambda x, _: x.to("cpu"),
    "copy into memory that is not pinned": lambda x, y: y.copy_(x, non_blocking=True),
    "copy to the GPU": lambda _, y: y.to(CUDA),
    "copy to where another lies": lambda x, y: y.to(x),
    "copy into a tensor": lambda x, y: x.copy_(y),
    "nonzero": lambda x, _: x.nonzero(),
    "where with one argument": lambda x, _: torch.where(x > 0),
    "mask": lambda x, _: x[x > 0],
    "values by a mask": lambda x, _: x.__setitem__(x > 0, x[:3].clone()),
    "masked_select": lambda x, _: x.masked_select(x > 0),
    "unique": lambda x, _: x.unique(),
    "repeats of unknown number": lambda x, _: torch.repeat_interleave(x.long()),
    "NMS": lambda x, _: torchvision.ops.nms(BOXES.to(CUDA, non_blocking=True), x[:2], 0.5),
    "list to the device": lambda x, _: torch.tensor([1.0, 2.0], device=x.device),
    "list beside a tensor": lambda x, _: x.new_tensor([1.0, 2.0]),
    "index that is a list": lambda x, _: x[[0, 2]],
    "index on the host": lambda x, _: x[torch.tensor([0, 2])],
    "number by an index": lambda x, _: x.__setitem__(x.long(), 5.0),
    "all of the device": lambda x, _: torch.cuda.synchronize(),
}
GOING_ON: dict[str, Task] = {
    "arithmetic": lambda x, _: (x * 2 + 1).sum(),
    "number of the host": lambda x, _: x * torch.tensor(2.0),
    "rows": lambda x, _: x[torch.arange(2, device=x.device)],
    "choice by a mask": lambda x, _: torch.where(x > 0, x, 0.0),
    "number by a mask": lambda x, _: x.__setitem__(x > 0, 5.0),
    "top": lambda x, _: x.topk(2),
    "constant": lambda x, _: torch.full((3,), 2.0, device=x.device),
    "zeros beside a tensor": lambda x, _: x.new_zeros(3),
    "list on the host": lambda x, _: torch.tensor([1.0, 2.0]).tolist(),
    "the host's own": lambda _, y: (y[y > 0].tolist(), y.to("cpu").numpy()),
    "repeats of known number": lambda x, _: torch.repeat_interleave(x.long(), output_size=6),
    "pinned copy": lambda _, y: y.pin_memory().to(CUDA, non_blocking=True),
    "copy that an event announces": lambda x, _: HostCopy(x).read().tolist(),
    "where it is already": lambda x, _: x.to(CUDA, torch.float32).to(x),
}
REFUSED: dict[str, Task] = {
    "sum of both": lambda x, y: x + y,
    "numbers of both, stacked": lambda x, _: torch.stack([x[0], torch.tensor(1.0)]),
    "concatenation": lambda x, y: torch.cat([x, y]),
    "index on the GPU into the host": lambda x, y: y[x.long()],
    "values of the host": lambda x, y: x.index_put_((x.long(),), y),
    "array of the GPU": lambda x, _: x.numpy(),
    "in the backward pass": lambda x, y: (_Foreign.apply(x.requires_grad_(), y)).sum().backward(),
    "random numbers of the host": lambda x, _: torch.rand(
        3, device=x.device, generator=torch.Generator()
    ),
    "copy that is read too early": lambda x, _: HostCopy(x)._copy.tolist(),
    "copy that nobody waits for": lambda x, _: x.to("cpu", non_blocking=True),
    "NMS of both": lambda x, _: torchvision.ops.nms(BOXES, x[:2], 0.5),
}


class _Foreign(torch.autograd.Function):
    """The identity, whose gradient is computed with a tensor of the host."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.other = y
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.other, None


def waits(task: Task) -> int:
    with pretended_gpu() as found:
        host = torch.tensor([1.0, 0.0, 2.0, 3.0])
        on_gpu = host.to(CUDA)
        assert (on_gpu.device, host.device) == (GPU, HOST)
        found.clear()
        task(on_gpu, host)
    return found.places.total()


@pytest.mark.parametrize("name", WAITING)
def test_the_host_waits(name: str) -> None:
    assert waits(WAITING[name]) == 1


@pytest.mark.parametrize("name", GOING_ON)
def test_the_host_goes_on(name: str) -> None:
    assert waits(GOING_ON[name]) == 0


@pytest.mark.parametrize("name", REFUSED)
def test_a_gpu_would_refuse(name: str) -> None:
    with pytest.raises(DeviceFault):
        waits(REFUSED[name])


def test_values_are_those_of_the_cpu_and_nothing_stays_replaced() -> None:
    values = torch.tensor([1.0, 2.0])
    with pretended_gpu():
        moved = values.cuda()
        assert (moved.is_cuda, moved.is_cpu, moved.get_device()) == (True, False, 0)
        assert moved[1:].device == GPU  # a view
        moved += 1
        assert moved.tolist() == [2.0, 3.0]
        assert values.tolist() == [1.0, 2.0]
    assert values.device == moved.device == HOST
    assert not torch.cuda.is_available() or torch.cuda.get_device_name() != "a pretended GPU"


def test_the_backward_pass_is_watched() -> None:
    with pretended_gpu() as found:
        values = torch.tensor([1.0, 0.0, 2.0], device=CUDA).requires_grad_()
        found.clear()
        values[values > 0].sum().backward()
        assert isinstance(values.grad, Tensor)
        assert values.grad.device == GPU
    assert found.of("backward") == 1
    assert found.places.total() == 2


def test_what_is_not_pinned_is_counted_apart() -> None:
    with pretended_gpu() as found:
        image = torch.ones(4)
        image.to(CUDA, non_blocking=True)
        image.pin_memory().to(CUDA, non_blocking=True)
        torch.empty(4, device=CUDA).copy_(image, non_blocking=True)
    assert (found.unpinned, found.places.total()) == (2, 0)


@pytest.mark.parametrize(
    ("module", "owner"),
    [("dre_ssod.teacher", "dre_ssod"), ("detectron2.modeling.matcher", "detectron2")]
    + [(name, "other") for name in ("torch.functional", "detectron2.structures", "dre_ssod_more")],
)
def test_a_wait_belongs_to_the_module_that_it_is_in_wherever_that_lies(
    module: str, owner: str
) -> None:
    code = compile("def read(x): return x.tolist()", "/home/me/dre_ssod/.venv/file.py", "exec")
    names: dict[str, Any] = {"__name__": module}
    exec(code, names)
    with pretended_gpu() as found:
        names["read"](torch.zeros(2, device=CUDA))
    assert found.of(owner) == 1


# A fault of each kind, planted in a step


@pytest.fixture(scope="module")
def parts(cfg: CfgNode) -> StepParts:
    """A step on the GPU."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cuda"
    with pretended_gpu():
        return StepParts(cfg)


def run(parts: StepParts) -> list[str]:
    """Where this project's code waits in a step."""
    with pretended_gpu() as found:
        parts.whole()
    return [place for owner, place in found.places.elements() if owner == "dre_ssod"]


def test_a_step_waits_once(parts: StepParts) -> None:
    (place,) = run(parts)
    assert place.startswith("dre_ssod.engine.metrics:")


PLANTED_FAULTS: dict[str, Callable[[Any], object]] = {
    "a tensor of the host": lambda losses: losses["loss_cls"] * torch.ones(1),
    "a number of the host, stacked": lambda losses: torch.stack(
        [losses["loss_cls"], torch.tensor(1.0)]
    ),
    "an array": lambda losses: losses["loss_cls"].detach().numpy(),
    "a copy that is not awaited": lambda losses: HostCopy(losses["loss_cls"].detach())._copy + 1,
}
PLANTED_WAITS: dict[str, Callable[[Any], object]] = {
    "a value that is read": lambda losses: losses["loss_cls"].item(),
    "a condition": lambda losses: bool(losses["loss_cls"] > 0),
    "a list": lambda losses: losses["loss_cls"].new_tensor([1.0]),
    "a mask": lambda losses: losses["loss_cls"][None][losses["loss_cls"][None] > 0],
    "an index": lambda losses: losses["loss_cls"][None][[0]],
    "a copy": lambda losses: losses["loss_cls"].detach().cpu(),
}


PLANTED = """
def forward(model, batch):
    losses = call(model, batch)
    if model.training:
        fault(losses.supervised)
    return losses
"""


def plant(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Any], object]) -> None:
    """Have a step do something with its losses, in this project's name."""
    call = SemiSupervisedRCNN.forward
    names: dict[str, Any] = {"__name__": "dre_ssod.planted", "call": call, "fault": fault}
    exec(PLANTED, names)
    monkeypatch.setattr(SemiSupervisedRCNN, "forward", names["forward"])


@pytest.mark.parametrize("name", PLANTED_FAULTS)
def test_a_planted_fault_is_raised(
    name: str, parts: StepParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, PLANTED_FAULTS[name])
    with pytest.raises(DeviceFault):
        run(parts)


@pytest.mark.parametrize("name", PLANTED_WAITS)
def test_a_planted_wait_is_counted(
    name: str, parts: StepParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, PLANTED_WAITS[name])
    places = run(parts)
    assert len(places) == 2
    assert any(place.startswith("dre_ssod.planted:") for place in places)
