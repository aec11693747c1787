"""Interleaved timing: medians that can be compared because they were taken side by side."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import detectron2
import numpy as np
import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one task over all rounds.

    Attributes:
        seconds: one value per round, in the order taken.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile; both the value itself after a single round."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def interleave(
    tasks: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device | None = None,
    clock: Callable[[], float] | None = None,
) -> dict[str, Timing]:
    """Time every task once per round, so that a slow moment of the machine hits all of them.

    One untimed round goes first. The order of the tasks turns around every other round.

    Args:
        tasks: callables by name.
        rounds: timed rounds, at least 1.
        device: waited for before and after each task; None for work on the CPU.
        clock: in seconds, None for the time that passes; ``time.process_time`` counts what
            processors do for this process, which other programs hardly change.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds: at least 1 is needed")
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(-1, rounds):
        names = list(tasks) if number % 2 else list(tasks)[::-1]
        for name in names:
            taken = seconds_of(tasks[name], device, clock)
            if number >= 0:
                seconds[name].append(taken)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def seconds_of(
    task: Callable[[], object],
    device: torch.device | None,
    clock: Callable[[], float] | None = None,
) -> float:
    """Of one call, which a device is waited for before and after."""
    clock = clock or time.perf_counter
    wait_for(device)
    start = clock()
    task()
    wait_for(device)
    return clock() - start


def ratio(over: Timing, under: Timing) -> float:
    """Median over the rounds of one time divided by the other, taken in the same round."""
    return statistics.median(a / b for a, b in zip(over.seconds, under.seconds, strict=True))


def add(*timings: Timing) -> Timing:
    """The time of tasks done one after the other, round by round."""
    rows = zip(*(timing.seconds for timing in timings), strict=True)
    return Timing(tuple(sum(row) for row in rows))


def machine(device: torch.device | str | None = None) -> dict[str, str | int]:
    """What the figures depend on: processor, threads, versions, device.

    Args:
        device: that is measured; None for a GPU where there is one.
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "torch_threads": torch.get_num_threads(),
        "opencv_threads": cv2.getNumThreads(),
        "device": _name_of(device),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def _name_of(device: torch.device | str | None) -> str:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    is_gpu = torch.device(device).type == "cuda"
    return torch.cuda.get_device_name(device) if is_gpu else str(device)


def _processor() -> str:
    """The model name where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def wait_for(device: torch.device | None) -> None:
    """Until a GPU has done what it was given; a CPU has, at once."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
