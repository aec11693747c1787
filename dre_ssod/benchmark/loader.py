"""Loading: views of an image against decoding and resizing alone, and a pool of a million names."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.transforms import ResizeShortestEdge

from dre_ssod.benchmark.memory import private_bytes, resident_bytes
from dre_ssod.benchmark.report import Goal, Report, Row
from dre_ssod.benchmark.timing import interleave, machine, ratio
from dre_ssod.data.loader import BatchPlan, build_paired_loader
from dre_ssod.data.mappers import UnlabeledViews
from dre_ssod.data.sources.catalog import load_unlabeled
from dre_ssod.data.splits.split import draw_split
from dre_ssod.methods import build_method

MAX_MILLISECONDS = 15.0
MAX_BYTES_PER_ENTRY = 2048.0
MAX_START_SECONDS = 60.0


def benchmark_loader(cfg: CfgNode, rounds: int, images: int) -> Report:
    """Both views of unlabeled images on one thread, decoding included.

    Args:
        cfg: its DATASETS.UNLABELED and DATASETS.TRAIN give the images, without their labels.
        images: how many of them a round loads.
    """
    records = load_unlabeled([*cfg.DATASETS.UNLABELED, *cfg.DATASETS.TRAIN])[:images]
    _, mapper = build_method(cfg).mappers(cfg)
    detectron2_mapper = DatasetMapper(cfg, is_train=True)
    plan = BatchPlan(labeled=0, unlabeled=1)
    batches = iter(build_paired_loader([], records, mapper, mapper, plan, seed=1, num_workers=1))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a worker process
    try:
        timings = interleave(
            {
                "two views": lambda: _load(records, mapper),
                "limit": lambda: _decode_and_resize(records, cfg),
                "Detectron2": lambda: _twice(records, detectron2_mapper),
                "worker": lambda: [next(batches) for _ in records],
            },
            rounds,
        )
    finally:
        cv2.setNumThreads(threads)
    names = {
        "two views": "weak and strong view, per image",
        "limit": "decode and two plain resizes with OpenCV, per image",
        "Detectron2": "two plain views by Detectron2's mapper, per image",
        "worker": "weak and strong view out of one loading process, per image",
    }
    rows = [Row.milliseconds(names[key], timing, len(records)) for key, timing in timings.items()]
    for name in ("two views", "Detectron2"):
        rows.append(Row(f"{name} over the limit", ratio(timings[name], timings["limit"]), ""))
    return Report(
        "loader",
        {
            "images": len(records),
            "short sides": tuple(cfg.INPUT.MIN_SIZE_TRAIN),
            "rounds": rounds,
        },
        machine(),
        rows,
        [Goal("weak and strong view, per image", rows[0].value, MAX_MILLISECONDS, "ms")],
    )


def benchmark_growth(entries: int, workers: int) -> Report:
    """Start-up time and memory of a pool of ``entries`` generated names; no image is read."""
    before, start = resident_bytes(), time.perf_counter()
    pool = [
        {"file_name": f"/data/unlabeled/{number:012d}.jpg", "image_id": f"{number:012d}.jpg"}
        for number in range(entries)
    ]
    listed = time.perf_counter()
    draw_split([record["image_id"] for record in pool], 1.0, 0)
    drawn = time.perf_counter()
    loader = build_paired_loader(
        pool[:100],
        pool,
        _name_only,
        _name_only,
        BatchPlan(labeled=4, unlabeled=16),
        seed=1,
        num_workers=workers,
    )
    built = time.perf_counter()
    iterator = iter(loader)
    next(iterator)
    first = time.perf_counter()
    used = resident_bytes() - before
    private = [private_bytes(worker.pid) for worker in getattr(iterator, "_workers", [])]
    del iterator
    total = used + sum(private)
    return Report(
        "growth",
        {"entries": entries, "workers": workers},
        machine(),
        [
            Row("list of names", listed - start, "s"),
            Row("draw of a split", drawn - listed, "s"),
            Row("loader", built - drawn, "s"),
            Row("first batch", first - built, "s"),
            Row("memory of the main process", used / 2**20, "MiB"),
            Row("memory that a worker has for itself", max(private, default=0) / 2**20, "MiB"),
        ],
        [
            Goal("memory per entry, all processes", total / entries, MAX_BYTES_PER_ENTRY, "bytes"),
            Goal("start to first batch", first - start, MAX_START_SECONDS, "s"),
        ],
    )


def _name_only(record: dict[str, Any], rng: np.random.Generator) -> str:
    return str(record["file_name"])


def _load(records: Sequence[dict[str, Any]], mapper: UnlabeledViews) -> None:
    for position, record in enumerate(records):
        mapper(record, np.random.default_rng(position))


def _decode_and_resize(records: Sequence[dict[str, Any]], cfg: CfgNode) -> None:
    """OpenCV alone; sizes as the views draw them."""
    low, high = cfg.INPUT.MIN_SIZE_TRAIN
    for position, record in enumerate(records):
        rng = np.random.default_rng(position)
        image = cv2.imread(record["file_name"])
        assert image is not None, record["file_name"]
        for short_side in rng.integers(low, high, size=2, endpoint=True):
            height, width = ResizeShortestEdge.get_output_shape(
                *image.shape[:2], int(short_side), cfg.INPUT.MAX_SIZE_TRAIN
            )
            cv2.resize(image, (width, height))


def _twice(records: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], Any]) -> None:
    for record in records:
        for _ in range(2):
            mapper(record)
