"""A training step in each number format and memory layout that a config can ask for."""

from __future__ import annotations

import itertools

from detectron2.config import CfgNode

from dre_ssod.benchmark.report import Goal, Report, Row
from dre_ssod.benchmark.step import StepParts
from dre_ssod.benchmark.timing import interleave, machine, ratio

# A choice that costs this many times the quickest one's time is worth changing.
MAX_RATIO = 1.05


def benchmark_formats(cfg: CfgNode, rounds: int) -> Report:
    """Time a step with autocast and channels-last off and on, on the same batch and weights."""
    choices = itertools.product((False, True), repeat=2)
    steps = {_name(*choice): _step(cfg, *choice) for choice in choices}
    plain, *_, both = steps.values()
    timings = interleave(
        {name: parts.whole for name, parts in steps.items()}, rounds, plain.step.device
    )
    chosen = _name(cfg.SOLVER.AMP.ENABLED, cfg.MODEL.CHANNELS_LAST)
    quickest = min(timings, key=lambda name: timings[name].median)
    (first, in_float32), *others = timings.items()
    rows = [Row.milliseconds(name, timing) for name, timing in timings.items()]
    rows += [Row(f"{name}, over {first}", ratio(timing, in_float32), "") for name, timing in others]
    return Report(
        "formats",
        {
            "autocast": str(both.step.settings.autocast_dtype),
            "the config's choice": chosen,
            "the quickest": quickest,
            "rounds": rounds,
        },
        machine(),
        rows,
        [
            Goal(
                "the config's choice over the quickest",
                ratio(timings[chosen], timings[quickest]),
                MAX_RATIO,
            )
        ],
    )


def _name(autocast: bool, channels_last: bool) -> str:
    return ("autocast" if autocast else "float32") + (", channels-last" if channels_last else "")


def _step(cfg: CfgNode, autocast: bool, channels_last: bool) -> StepParts:
    variant = cfg.clone()
    variant.defrost()
    variant.SOLVER.AMP.ENABLED = autocast
    variant.MODEL.CHANNELS_LAST = channels_last
    return StepParts(variant)
