"""What a first config can be made from: the labeled and unlabeled images, and the machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dre_ssod.config.keys import get_cfg
from dre_ssod.data.records import corners, image_size, objects_of
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.errors import ConfigError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """Names or URIs as in DATASETS.TRAIN, UNLABELED and TEST, and the share that stays labeled."""

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    percent: float = 100.0


@dataclass(frozen=True)
class DataFacts:
    """What the images and labels say.

    Attributes:
        classes: names in order.
        objects: labeled objects of each class.
        labeled, unlabeled: images, once a share of the labeled ones has lost its labels.
        short_sides, long_sides: (N,) of labeled images, in pixels.
        box_sides: (M,) square root of the area of each labeled box, over the short side of its
            image.
        box_ratios: (M,) height over width.
    """

    classes: tuple[str, ...]
    objects: dict[str, int]
    labeled: int
    unlabeled: int
    short_sides: FloatArray
    long_sides: FloatArray
    box_sides: FloatArray
    box_ratios: FloatArray


@dataclass(frozen=True)
class Machine:
    """What trains.

    Attributes:
        device: "cuda" or "cpu", for MODEL.DEVICE.
        name: for people.
        gpu_bytes: memory of the GPU; 0 for a CPU.
    """

    device: str
    name: str
    gpu_bytes: int = 0


def look_at_data(sources: Sources) -> DataFacts:
    """Read the labels, and count the images; no image is opened.

    Raises:
        SourceError: if a set cannot be read, or does not say how large its images are.
        ConfigError: if there is nothing to learn from.
    """
    # As the run to be planned has it.
    unreadable = get_cfg().DATALOADER.MAX_UNREADABLE_SHARE
    pools = build_pools(
        *(sources.labeled, sources.unlabeled, sources.percent),
        test=sources.test,
        unreadable=unreadable,
    )
    sizes: FloatArray = np.array([image_size(record) for record in pools.labeled], dtype=float)
    boxes: list[Any] = []
    counts: Counter[int] = Counter()
    for record, size in zip(pools.labeled, sizes, strict=True):
        for item in objects_of(record):
            x1, y1, x2, y2 = corners(item)
            if x2 > x1 and y2 > y1:
                boxes.append([np.sqrt((x2 - x1) * (y2 - y1)) / size.min(), (y2 - y1) / (x2 - x1)])
                counts[int(item["category_id"])] += 1
    if not boxes:
        raise ConfigError(f"--labeled {' '.join(sources.labeled)}: no image has a box")
    if not pools.unlabeled:
        raise ConfigError(
            "there are no unlabeled images: name them by --unlabeled, such as folder://DIR, or let "
            "--percent leave a part of --labeled unlabeled"
        )
    found = np.array(boxes)
    return DataFacts(
        classes=tuple(pools.classes),
        objects={name: counts[index] for index, name in enumerate(pools.classes)},
        labeled=len(pools.labeled),
        unlabeled=len(pools.unlabeled),
        short_sides=sizes.min(axis=1),
        long_sides=sizes.max(axis=1),
        box_sides=found[:, 0],
        box_ratios=found[:, 1],
    )


def look_at_machine(device: str) -> Machine:
    """
    Args:
        device: "cuda", "cpu", or "" for a GPU where there is one.

    Raises:
        ConfigError: if a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is cuda, but this machine has no GPU; leave it out, or use cpu")
    if device == "cpu" or not torch.cuda.is_available():
        return Machine("cpu", f"a CPU with {os.cpu_count() or 1} cores")
    found = torch.cuda.get_device_properties(0)
    return Machine(
        "cuda", f"{found.name}, {found.total_memory / 2**30:.0f} GiB", found.total_memory
    )


def quantiles(values: FloatArray, shares: Sequence[float]) -> list[float]:
    """Values that these shares of all are at most."""
    return [float(value) for value in np.quantile(values, shares)]
