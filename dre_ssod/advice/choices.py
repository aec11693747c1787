"""Settings from facts, each with its reason.

The small detector's numbers come from this project's trainings on a CPU (``configs/bccd_10pct`` and
``configs/quickstart``), those of the large one from the paper's. They are rules of thumb: of the
large detector no run has shown them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dre_ssod.advice.facts import DataFacts, Machine, Sources, quantiles

LARGE, SMALL = "Base-RCNN-FPN.yaml", "Base-small-cpu.yaml"
RECIPE = "recipes/dre_small_data.yaml"
GIB = 2**30
LARGE_MODEL_BYTES = 2 * GIB
LARGE_IMAGE_BYTES = 1.05 * GIB
"""GPU memory of ResNet-50 in 16 bits, and of each image of a pass at short sides around 800: 20
images reserve 23 GiB (docs/gpu.md)."""
SHARE_OF_MEMORY = 0.8
LEVELS = 5
LABELED_OF_BATCH = 4
BURN_IN_PASSES = 16
"""Through the labeled images, before the teacher labels: after 8 over 200 photographs of 20 classes
it had 2 AP, too few for unlabeled images to help, after 16 it had 5 (docs/results.md)."""


@dataclass(frozen=True)
class Choice:
    """One config key.

    Attributes:
        key: dotted.
        value: as the config holds it.
        why: what it was made from, for a comment; "" where the key speaks for itself.
    """

    key: str
    value: Any
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """A config.

    Attributes:
        base: file of ``configs`` that it starts from, before ``RECIPE``.
        base_why: what that was chosen by.
        choices: in the order in which they are best read.
    """

    base: str
    base_why: str
    choices: list[Choice]

    def value(self, key: str) -> Any:
        """What was chosen for a key."""
        return next(choice.value for choice in self.choices if choice.key == key)


def plan(sources: Sources, data: DataFacts, machine: Machine, output_dir: str) -> Plan:
    """Everything that a first run needs."""
    short, sizes = image_sides(data, machine)
    passes = passes_of_batch(machine, short)
    is_large = passes is not None
    labeled, unlabeled = LABELED_OF_BATCH, 16 if is_large else 4
    iterations, why = run_length(data, labeled, unlabeled, is_large)
    base_why = (
        f"ResNet-50, since {machine.name} holds a pass of it"
        if is_large
        else f"the small detector (EfficientNet-Lite0), since this is for {machine.name}"
    )
    return Plan(
        LARGE if is_large else SMALL,
        base_why,
        [
            *_data(sources, data),
            Choice("MODEL.DEVICE", machine.device),
            *sizes,
            anchors(data, short),
            *aspect_ratios(data),
            *_batch(labeled, unlabeled, passes),
            *_schedule(iterations, why, is_large),
            *_method(data, iterations, is_large),
            Choice("OUTPUT_DIR", output_dir),
        ],
    )


def image_sides(data: DataFacts, machine: Machine) -> tuple[int, list[Choice]]:
    """Short side at test time, and the INPUT keys.

    On a CPU 224 pixels, or what a tenth of the boxes needs to be 12 pixels wide, up to 320; on a
    GPU the images as they are, up to 800. Never much more than the images have.
    """
    own = float(np.median(data.short_sides))
    if machine.device == "cuda":
        wanted, why = min(own, 800.0), "the images' own, up to 800"
        span = (0.5, 1.5)
    else:
        [small] = quantiles(data.box_sides, [0.1])
        wanted = min(own, min(max(224.0, 12.0 / small), 320.0))
        why = "224 is fast on a CPU; up to 320 where a tenth of the boxes would be under 12 pixels"
        span = (0.85, 1.15)
    short = _multiple(wanted, 32)
    ratio = float(np.max(data.long_sides / data.short_sides))
    long = _multiple(short * min(max(ratio, 1.4), 2.5), 32)
    facts = (
        f"median short side {own:.0f}, longest shape 1 : {ratio:.1f}; {why}. Larger finds smaller "
        "objects and costs time by its square"
    )
    low, high = (_multiple(short * factor, 16) for factor in span)
    return short, [
        Choice("INPUT.MIN_SIZE_TEST", short, facts),
        Choice("INPUT.MAX_SIZE_TEST", long),
        Choice("INPUT.MIN_SIZE_TRAIN", (low, high), "around the size at test time"),
        Choice("INPUT.MAX_SIZE_TRAIN", _multiple(long * span[1], 32)),
    ]


def passes_of_batch(machine: Machine, short: int) -> int | None:
    """In how many passes a GPU trains the paper's batch of 20; None where it holds not even 5."""
    one = LARGE_IMAGE_BYTES * max((short / 800) ** 2, 0.1)
    for passes in (1, 2, 4):
        if LARGE_MODEL_BYTES + 20 / passes * one <= SHARE_OF_MEMORY * machine.gpu_bytes:
            return passes
    return None


def anchors(data: DataFacts, short: int) -> Choice:
    """The smallest boxes' side, then twice as much from level to level, as the strides have it.

    A level whose anchors are small for its stride (4 to 64 pixels) would pass objects over, so the
    largest boxes say nothing: Detectron2's own 32 to 512 are the most.
    """
    low, high = (side * short for side in quantiles(data.box_sides, [0.05, 0.95]))
    first = min(max(low, 8.0), 32.0)
    return Choice(
        "MODEL.ANCHOR_GENERATOR.SIZES",
        [[round(first * 2**level)] for level in range(LEVELS)],
        f"nine of ten boxes have sides of {low:.0f} to {high:.0f} pixels at short side {short}; "
        "from the smallest on each level has twice the one before, as its stride is",
    )


def aspect_ratios(data: DataFacts) -> list[Choice]:
    """The usual three, and one more where a tenth of the boxes is beyond them."""
    low, high = quantiles(data.box_ratios, [0.1, 0.9])
    ratios = [0.5, 1.0, 2.0]
    if low < 0.35:
        ratios.insert(0, max(round(low, 2), 0.1))
    if high > 2.9:
        ratios.append(min(round(high, 1), 10.0))
    if len(ratios) == 3:
        return []
    why = (
        f"height over width of a tenth of the boxes is below {low:.2f}, of another above {high:.1f}"
    )
    return [Choice("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [ratios], why)]


def run_length(data: DataFacts, labeled: int, unlabeled: int, is_large: bool) -> tuple[int, str]:
    """Iterations, and why: so many times through the labeled and the unlabeled images."""
    times_labeled, times_unlabeled = (100, 24) if is_large else (40, 8)
    wanted = max(
        times_labeled * data.labeled / labeled, times_unlabeled * data.unlabeled / unlabeled
    )
    low, high = (3000, 180_000) if is_large else (1000, 6000)
    iterations = int(round(min(max(wanted, low), high), -2))
    why = (
        f"{data.labeled} labeled and {data.unlabeled} unlabeled images: {times_labeled} and "
        f"{times_unlabeled} times through them, whichever is longer, within {low} to {high}"
    )
    return iterations, why


def _data(sources: Sources, data: DataFacts) -> list[Choice]:
    objects = ", ".join(f"{name} {count}" for name, count in data.objects.items())
    found = [
        Choice(
            "DATASETS.TRAIN", sources.labeled, f"{data.labeled} labeled images; objects: {objects}"
        ),
        Choice("DATASETS.LABELED_PERCENT", sources.percent),
        Choice(
            "DATASETS.UNLABELED", sources.unlabeled, f"{data.unlabeled} unlabeled images in all"
        ),
        Choice(
            "DATASETS.TEST",
            sources.test,
            ""
            if sources.test
            else "nothing is measured without: tools/make_split.py --val N keeps images for it",
        ),
        Choice("MODEL.ROI_HEADS.NUM_CLASSES", len(data.classes), ", ".join(data.classes)),
    ]
    return found


def _batch(labeled: int, unlabeled: int, passes: int | None) -> list[Choice]:
    batch = labeled + unlabeled
    rate = 0.01 * batch / 20 if passes else 0.006 * batch / 8
    source = "the paper's 0.01 for 20" if passes else "0.006 for 8, measured on a CPU,"
    return [
        Choice("SOLVER.IMS_PER_BATCH", batch, f"{labeled} labeled and {unlabeled} unlabeled"),
        Choice("SSOD.LABELED_TO_UNLABELED", (1, unlabeled // labeled)),
        Choice("SOLVER.ACCUMULATION_STEPS", passes or 1, "passes of a batch, by the memory"),
        Choice("SOLVER.BASE_LR", rate, f"{source} times the batch"),
        Choice("SOLVER.AMP.ENABLED", True, "16 bits where the machine has units for them"),
    ]


def _schedule(iterations: int, why: str, is_large: bool) -> list[Choice]:
    steps = (2 / 3, 8 / 9) if is_large else (0.6,)
    period = max(iterations // 5, 1)
    found = [
        Choice("SOLVER.MAX_ITER", iterations, why),
        Choice("SOLVER.STEPS", tuple(round(iterations * share) for share in steps)),
        Choice("SOLVER.WARMUP_ITERS", min(1000, iterations // 10)),
        Choice("SOLVER.CHECKPOINT_PERIOD", period),
        Choice("TEST.EVAL_PERIOD", period, "five times in the run"),
    ]
    if not is_large:
        clip = "higher than the base's: the unsupervised losses would slow the labeled ones down"
        found.append(Choice("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 10.0, clip))
    return found


def _method(data: DataFacts, iterations: int, is_large: bool) -> list[Choice]:
    return [
        _burn_in(data, iterations, is_large),
        Choice("SSOD.UNSUP_LOSS_WEIGHT", 4.0 if is_large else 2.0),
        Choice("SSOD.EMA.HORIZON", 0.1, "the teacher averages over a tenth of the run at most"),
        Choice("SSOD.STRONG_VIEW.MAX_ROTATE", 0.0, "turned boxes grow; raise it for many labels"),
        Choice("SSOD.STRONG_VIEW.MAX_SHEAR", 0.0),
    ]


def _burn_in(data: DataFacts, iterations: int, is_large: bool) -> Choice:
    why = "on labels alone, so that the teacher knows something before it labels"
    if is_large:
        return Choice("SSOD.BURN_IN_ITERS", iterations // 10, why)
    wanted = max(iterations // 5, BURN_IN_PASSES * data.labeled // LABELED_OF_BATCH)
    length = min(wanted, iterations // 2)
    passes = length * LABELED_OF_BATCH / data.labeled
    why += f": {passes:.0f} times through the labeled images, where {BURN_IN_PASSES} are wanted"
    return Choice("SSOD.BURN_IN_ITERS", length, why)


def _multiple(value: float, unit: int) -> int:
    return max(unit, round(value / unit) * unit)
