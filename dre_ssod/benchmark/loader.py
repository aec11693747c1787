"""Loading: views of an image against decoding alone, loose files and shards, very large pools."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper

from dre_ssod.benchmark.memory import private_bytes
from dre_ssod.benchmark.report import Goal, Report, Row
from dre_ssod.benchmark.timing import interleave, machine, ratio
from dre_ssod.data.images import read_image
from dre_ssod.data.loader import BatchPlan, build_paired_loader
from dre_ssod.data.mappers import UnlabeledViews
from dre_ssod.data.sources.catalog import load_unlabeled
from dre_ssod.data.sources.shards.index import index_path, write_index
from dre_ssod.data.sources.shards.patterns import look_at, root_of
from dre_ssod.data.sources.shards.scanning import COLUMNS, Content
from dre_ssod.data.splits.pools import without_known
from dre_ssod.data.splits.split import draw_split
from dre_ssod.data.views.views import draw_size
from dre_ssod.memory.machine import resident_bytes
from dre_ssod.methods import build_method
from dre_ssod.runs.contents import SetContent

MAX_MILLISECONDS = 15.0
MAX_BYTES_PER_ENTRY = 2048.0
MAX_START_SECONDS = 60.0
MAX_MIB = 1024.0
HOLLOW = "hollow-*.tar"


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
                "limit": lambda: _decode_and_resize(records, mapper),
                "Detectron2": lambda: _twice(records, detectron2_mapper),
                "worker": lambda: [next(batches) for _ in records],
            },
            rounds,
        )
    finally:
        cv2.setNumThreads(threads)
    names = {
        "two views": "weak and strong view, per image",
        "limit": "decode and a plain resize for each size with OpenCV, per image",
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
        machine("cpu"),
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
        machine("cpu"),
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


def benchmark_sources(names: Sequence[str], rounds: int, images: int) -> Report:
    """Images per second of sets, read and decoded by one thread in an order of chance.

    The first pass is that of an empty cache for sets in stores, if ``$DRE_SSOD_CACHE`` is empty.

    Args:
        names: of unlabeled sets, or their URIs.
        images: of each set, at most, in a pass.
    """
    rng = np.random.default_rng(0)
    rows, passes = [], {}
    for name in names:
        start = time.perf_counter()
        records = load_unlabeled([name])
        rows.append(Row(f"{name}: opened", time.perf_counter() - start, "s"))
        chosen = [records[number] for number in rng.permutation(len(records))[:images].tolist()]
        passes[name] = (len(chosen), partial(_read_all, chosen))
    for name, (count, read) in passes.items():
        start = time.perf_counter()
        read()
        rows.append(Row(f"{name}: first pass", count / (time.perf_counter() - start), "images / s"))
    timings = interleave({name: read for name, (_, read) in passes.items()}, rounds)
    for name, timing in timings.items():
        count = passes[name][0]
        low, high = timing.quartiles
        row = Row(
            f"{name}: again", count / timing.median, "images / s", (count / high, count / low)
        )
        rows.append(row)
    return Report("sources", {"images": images, "rounds": rounds}, machine("cpu"), rows)


def _read_all(records: Sequence[dict[str, Any]]) -> None:
    for record in records:
        read_image(record["file_name"], "RGB")


def benchmark_shard_growth(entries: int, workers: int, folder: Path) -> Report:
    """Start-up time and memory of a pool of shards with so many images; none of them is read.

    The shards are files without content, and their index says what it would if they had some.

    Args:
        folder: for shards and index, some 32 bytes for each image.
    """
    places = _write_hollow_shards(folder, entries)
    before, start = resident_bytes(), time.perf_counter()
    pool = load_unlabeled([f"shards://{folder}/{HOLLOW}"])
    listed = time.perf_counter()
    known = [pool[number] for number in range(0, len(pool), max(2, len(pool) // 1000))]
    rest = without_known(pool, known)
    content = SetContent.of(rest)
    described = time.perf_counter()
    plan = BatchPlan(labeled=4, unlabeled=16)
    loader = build_paired_loader(
        known, rest, _name_only, _name_only, plan, seed=1, num_workers=workers
    )
    iterator = iter(loader)
    next(iterator)
    first = time.perf_counter()
    used = resident_bytes()
    private = [private_bytes(worker.pid) for worker in getattr(iterator, "_workers", [])]
    del iterator
    return Report(
        "growth",
        {"entries": len(pool), "shards": len(places), "workers": workers},
        machine("cpu"),
        [
            Row("index opened", listed - start, "s"),
            Row(f"{len(known)} known images left out, the rest described", described - listed, "s"),
            Row("first batch", first - described, "s"),
            Row("memory that the pool adds to the main process", (used - before) / 2**20, "MiB"),
            Row("shards in a checkpoint", len(content.ids), ""),
            Row("memory that a worker has for itself", max(private, default=0) / 2**20, "MiB"),
        ],
        [
            Goal("memory of the main process, imports included", used / 2**20, MAX_MIB, "MiB"),
            Goal("start to first batch", first - start, MAX_START_SECONDS, "s"),
        ],
    )


def _write_hollow_shards(folder: Path, entries: int) -> list[Path]:
    """Shards as long as they would be, and their index."""
    in_shard = min(entries, 10_000)
    names = [f"{number:09d}.jpg".encode() for number in range(in_shard)]
    columns = np.zeros((len(COLUMNS), in_shard), np.uint32)
    # A header, and a hundred kilobytes.
    columns[0] = 1 + 200 * np.arange(in_shard)
    columns[1] = 100_000
    columns[4] = np.cumsum([len(name) for name in names])
    places = [folder / f"hollow-{number:06d}.tar" for number in range(entries // in_shard)]
    for place in places:
        place.touch()
        os.truncate(place, 512 * 200 * in_shard)
    content = Content(columns, b"".join(names))
    root, shards = root_of(places), look_at("hollow", places)
    write_index(index_path(shards, root), shards, itertools.repeat(content, len(places)))
    return places


def _name_only(record: dict[str, Any], rng: np.random.Generator) -> str:
    return str(record["file_name"])


def _load(records: Sequence[dict[str, Any]], mapper: UnlabeledViews) -> None:
    for position, record in enumerate(records):
        mapper(record, np.random.default_rng(position))


def _decode_and_resize(records: Sequence[dict[str, Any]], mapper: UnlabeledViews) -> None:
    """OpenCV alone; sizes as the views draw them."""
    for position, record in enumerate(records):
        rng = np.random.default_rng(position)
        image = cv2.imread(record["file_name"])
        assert image is not None, record["file_name"]
        for recipe in mapper.drawn:
            height, width = draw_size(image.shape[:2], recipe, rng)
            cv2.resize(image, (width, height))


def _twice(records: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], Any]) -> None:
    for record in records:
        for _ in range(2):
            mapper(record)
