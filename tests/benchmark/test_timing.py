from __future__ import annotations

import itertools

import pytest
import torch

from dre_ssod.benchmark import timing
from dre_ssod.benchmark.timing import Timing, add, interleave, machine, ratio


def test_every_task_runs_once_a_round_and_once_before(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))
    calls: list[str] = []
    found = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3)
    assert [sorted(calls[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert {name: t.seconds for name, t in found.items()} == dict.fromkeys("abc", (1.0, 1.0, 1.0))


def test_the_order_turns_around() -> None:
    calls: list[str] = []
    interleave({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=2)
    assert calls[3:6] == calls[6:9][::-1]


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="0 rounds"):
        interleave({"a": lambda: None}, rounds=0)


def test_medians_quartiles_and_ratios() -> None:
    slow, fast = Timing((4.0, 2.0, 30.0)), Timing((2.0, 2.0, 10.0))
    assert slow.median == 4.0
    assert slow.quartiles == (3.0, 17.0)
    assert ratio(slow, fast) == 2.0
    assert add(slow, fast).seconds == (6.0, 4.0, 40.0)
    assert Timing((5.0,)).quartiles == (5.0, 5.0)


def test_the_machine_names_what_figures_depend_on() -> None:
    assert {"processor", "torch_threads", "device", "torch", "opencv"} <= machine().keys()


def test_the_device_that_is_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cuda": "first GPU", "cuda:1": "second GPU"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[str(device)])
    assert machine("cpu")["device"] == machine(torch.device("cpu"))["device"] == "cpu"
    assert machine(torch.device("cuda:1"))["device"] == "second GPU"
    assert machine()["device"] == "first GPU"
