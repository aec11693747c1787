"""A training step in each number format and memory layout that a config can ask for."""

from __future__ import annotations

import itertools

from detectron2.config import CfgNode

from dre_ssod.benchmark.report import Goal, Report, Row
from dre_ssod.benchmark.step import StepParts
from dre_ssod.benchmark.timing import interleave, machine, ratio
from dre_ssod.modeling.rcnn import uses_channels_last

# A choice that costs this many times the quickest one's time is worth changing.
MAX_RATIO = 1.05


def benchmark_formats(cfg: CfgNode, rounds: int) -> Report:
    """Time a step with autocast and channels-last off and on, on the same batch and weights."""
    variants = [_variant(cfg, *choice) for choice in itertools.product((False, True), repeat=2)]
    # One of each name: a layout that the device does not take in a format has that of the other.
    by_name = {_name(variant): variant for variant in variants}
    steps = {name: StepParts(variant) for name, variant in by_name.items()}
    plain, *_, both = steps.values()
    timings = interleave(
        {name: parts.whole for name, parts in steps.items()}, rounds, plain.step.device
    )
    chosen = _name(cfg)
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
        machine(plain.step.device),
        rows,
        [
            Goal(
                "the config's choice over the quickest",
                ratio(timings[chosen], timings[quickest]),
                MAX_RATIO,
            )
        ],
    )


def _name(cfg: CfgNode) -> str:
    layout = ", channels-last" if uses_channels_last(cfg) else ""
    return ("autocast" if cfg.SOLVER.AMP.ENABLED else "float32") + layout


def _variant(cfg: CfgNode, autocast: bool, channels_last: bool) -> CfgNode:
    variant = cfg.clone()
    variant.defrost()
    variant.SOLVER.AMP.ENABLED = autocast
    variant.MODEL.CHANNELS_LAST = channels_last
    return variant
