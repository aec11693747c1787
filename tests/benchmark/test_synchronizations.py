"""The rules by which a host waits for a GPU, one by one; and a step that keeps to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from dre_ssod.benchmark.synchronizations import count_synchronizations
from dre_ssod.transfers import HostCopy

VALUES = torch.tensor([1.0, 0.0, 2.0, 3.0])
BOXES = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0]])
DEVICE = torch.device("cpu")

WAITING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "truth of a tensor": lambda x: bool(x.any()),
    "float": lambda x: float(x[0]),
    "list": lambda x: x.tolist(),
    "copy to the host": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "where with one argument": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "mask on the left": lambda x: x.clone().__setitem__(x > 0, 5.0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "repeats of unknown number": lambda x: torch.repeat_interleave(x.long()),
    "NMS": lambda x: torchvision.ops.nms(BOXES * x[0], x[:2], 0.5),
    "list to the device": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "list beside a tensor": lambda x: x.new_tensor([1.0, 2.0]),
}
GOING_ON: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x * 2 + 1).sum(),
    "rows": lambda x: x[torch.arange(2, device=x.device)],
    "choice by a mask": lambda x: torch.where(x > 0, x, 0.0),
    "top": lambda x: x.topk(2),
    "constant": lambda x: torch.full((3,), 2.0, device=x.device),
    "zeros beside a tensor": lambda x: x.new_zeros(3),
    "list on the host": lambda x: torch.tensor([1.0, 2.0]).tolist(),
    "repeats of known number": lambda x: torch.repeat_interleave(x.long(), output_size=6),
}


def waits(task: Callable[[Tensor], object], host: tuple[Tensor, ...] = ()) -> int:
    on_device = VALUES.clone()
    with count_synchronizations(host) as counter:
        task(on_device)
    return counter.places.total()


@pytest.mark.parametrize("name", WAITING)
def test_the_host_waits(name: str) -> None:
    assert waits(WAITING[name]) == 1


@pytest.mark.parametrize("name", GOING_ON)
def test_the_host_goes_on(name: str) -> None:
    assert waits(GOING_ON[name]) == 0


def test_what_the_loader_gave_is_read_freely_and_moved_at_a_price() -> None:
    image = torch.ones(4)
    assert waits(lambda _: (image * 2).tolist(), (image,)) == 0
    assert waits(lambda _: (image * 2).to(DEVICE), (image,)) == 1
    assert waits(lambda _: (image * 2).to(DEVICE, non_blocking=True), (image,)) == 0
    # Once it is there, it costs to read it.
    assert waits(lambda _: image.to(DEVICE, non_blocking=True).tolist(), (image,)) == 1
    assert waits(lambda x: x.copy_(image), (image,)) == 1
    assert waits(lambda x: x.copy_(image, non_blocking=True), (image,)) == 0
    # Mixed with what lies on the device, the result lies there too.
    assert waits(lambda x: (image + x).tolist(), (image,)) == 1


def test_copies_to_the_host_that_an_event_announces_are_counted_apart() -> None:
    with count_synchronizations() as counter:
        HostCopy(VALUES.clone()).read().nonzero()
    assert (counter.places.total(), counter.arrivals) == (0, 1)
    assert waits(lambda x: torch.empty(4).copy_(x)) == 1
    with count_synchronizations() as counter:
        torch.empty(4).copy_(VALUES.clone(), True)
        VALUES.clone().copy_(VALUES.clone(), True)
    assert (counter.places.total(), counter.arrivals) == (0, 1)


def test_the_backward_pass_is_watched() -> None:
    values = VALUES.clone().requires_grad_()
    with count_synchronizations() as counter:
        values[values > 0].sum().backward()
    assert counter.of("backward") == 1
    assert counter.places.total() == 2


@pytest.mark.parametrize(
    ("module", "owner"),
    [("dre_ssod.teacher", "dre_ssod"), ("detectron2.modeling.matcher", "detectron2")]
    + [(name, "other") for name in ("torch.functional", "detectron2.structures", "dre_ssod_more")],
)
def test_a_wait_belongs_to_the_module_that_it_is_in_wherever_that_lies(
    module: str, owner: str
) -> None:
    code = compile("def read(x): return x.tolist()", "/home/me/dre_ssod/.venv/file.py", "exec")
    names = {"__name__": module}
    exec(code, names)
    with count_synchronizations() as counter:
        names["read"](VALUES.clone())  # type: ignore[operator]
    assert counter.of(owner) == counter.places.total() == 1
