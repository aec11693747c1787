"""EMA update against one fused pass over a flat buffer of the same size."""

from __future__ import annotations

import copy

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from dre_ssod.benchmark.report import Goal, Report, Row
from dre_ssod.benchmark.timing import interleave, machine, ratio
from dre_ssod.engine.ema import ModelEMA

MAX_RATIO = 1.3


def benchmark_ema(cfg: CfgNode, rounds: int) -> Report:
    """Time an EMA update of the config's detector."""
    student = build_model(cfg)
    teacher = copy.deepcopy(student)
    ema = ModelEMA(teacher, student)
    tensors = [*student.parameters(), *student.buffers()]
    numbers = sum(t.numel() for t in tensors if t.is_floating_point())
    flat = torch.zeros(numbers, device=student.device)
    other = torch.ones(numbers, device=student.device)
    timings = interleave(
        {"update": lambda: ema.update(0.999), "flat": lambda: flat.lerp_(other, 0.001)},
        rounds,
        student.device,
    )
    settings = {"tensors": len(tensors), "numbers": numbers, "rounds": rounds}
    return Report(
        "ema",
        settings,
        machine(student.device),
        [
            Row.milliseconds("EMA of all tensors", timings["update"]),
            Row.milliseconds("lerp_ over one flat buffer", timings["flat"]),
        ],
        [Goal("EMA over flat", ratio(timings["update"], timings["flat"]), MAX_RATIO)],
    )
