"""The whole of it: two watching modes, and what the driver would be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch

from dre_ssod.benchmark.pretended_gpu.calls import Calls
from dre_ssod.benchmark.pretended_gpu.kernels import Events, Kernels
from dre_ssod.benchmark.pretended_gpu.places import place_of
from dre_ssod.benchmark.waits import Waits


@contextmanager
def pretended_gpu() -> Iterator[Waits]:
    """While entered, ``MODEL.DEVICE "cuda"`` trains, detects and evaluates on a pretended GPU.

    Yields:
        the waits so far, and the copies that nobody waits for.

    Raises:
        DeviceFault: out of the call that a GPU would refuse.
    """
    found, events = Waits(), Events()
    with ExitStack() as stack:
        for owner, name, value in _machine(found, events):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(Calls(found))
        stack.enter_context(Kernels(found, events))
        yield found


def _machine(found: Waits, events: Events) -> Iterator[tuple[Any, str, Any]]:
    """What is replaced while a GPU is pretended: its questions to the driver, by owner and name."""

    def wait(*_: object) -> None:
        found.note()
        events.synchronize()

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "current_stream": lambda device=None: events,
        "synchronize": wait,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_name": lambda device=None: "a pretended GPU",
        "get_device_capability": lambda device=None: (9, 0),
    }
    for name, answer in answers.items():
        yield torch.cuda, name, answer
    yield torch.accelerator, "is_available", lambda: True
    yield torch.cuda.amp.common, "amp_definitely_not_available", lambda: False
    fork = torch.random.fork_rng
    yield torch.random, "fork_rng", lambda devices=(), **kwargs: fork((), **kwargs)
    # It asks the tensors themselves.
    clipping = torch.nn.utils.clip_grad
    group = clipping._group_tensors_by_device_and_dtype  # type: ignore[attr-defined]
    yield (
        clipping,
        "_group_tensors_by_device_and_dtype",
        lambda tensors: {
            (place_of(tensors[0][0]), dtype): found for (_, dtype), found in group(tensors).items()
        },
    )
    autocast, begin = torch.amp.autocast_mode.autocast, torch.amp.autocast_mode.autocast.__init__
    yield autocast, "__init__", lambda self, kind, *a, **k: begin(self, "cpu", *a, **k)
