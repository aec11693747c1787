#!/usr/bin/env python
"""Measure speed and memory against the limit, in one process.

    python tools/benchmark.py loader --config-file configs/coco_10pct.yaml
    python tools/benchmark.py sources folder://photos 'shards://packed/images-*.tar'
    python tools/benchmark.py step --config-file configs/bccd_10pct.yaml --threads 1
    python tools/benchmark.py formats --config-file configs/bccd_10pct.yaml
    python tools/benchmark.py ema --config-file configs/coco_10pct.yaml --json ema.json
    python tools/benchmark.py eval
    python tools/benchmark.py inference --config-file configs/bccd_10pct.yaml --batch 4

loader     both views of an unlabeled image, against decoding and two plain resizes
growth     start-up and memory of a pool of a million names, or with --shards DIR of shards
sources    images per second of unlabeled sets: loose files or shards, on a disk or in a store
step       a training step, against student, teacher and optimizer measured alone
formats    a training step in float32 and under autocast, with and without channels-last
ema        the moving average, against one pass over a flat buffer
eval       COCO's evaluation of drawn detections, against pycocotools; the objects are those of
           DATASETS.TEST, or of a generated set without a config
inference  detection one by one and in batches, against Detectron2's own classes
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dre_ssod_cli.parsers import count, output, program_parser, worked_in
from dre_ssod_cli.program import runner

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from dre_ssod.benchmark.report import Report


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = program_parser(__doc__)
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    growth = _add_kind(kinds, "growth")
    growth.add_argument("--entries", type=count, default=1_000_000, help="names in the pool")
    growth.add_argument(
        "--shards", type=worked_in, metavar="DIR", help="for shards without content and their index"
    )
    growth.add_argument("--workers", type=int, default=2, help="loading processes")
    sources = _add_kind(kinds, "sources")
    sources.add_argument("sources", nargs="+", metavar="SOURCE", help="URI or registered name")
    sources.add_argument("--rounds", type=count, default=5, help="timed (default: 5)")
    sources.add_argument(
        "--images", type=count, default=200, help="of each, at most (default: 200)"
    )
    images = {"loader": 128, "eval": 5000, "inference": 32}
    for name in ("loader", "step", "formats", "ema", "eval", "inference"):
        kind = _add_kind(kinds, name)
        kind.add_argument("--config-file", default="", metavar="FILE")
        kind.add_argument("--rounds", type=count, default=5, help="timed rounds (default: 5)")
        if name != "eval":
            kind.add_argument(
                "--threads",
                type=count,
                help="of PyTorch and OpenCV (default: their own choice)",
            )
        if name in images:
            default = images[name]
            kind.add_argument(
                "--images",
                type=count,
                default=default,
                help=f"a round (default: {default})",
            )
        if name == "inference":
            kind.add_argument("--batch", type=count, default=8, help="images (default: 8)")
        kind.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    return parser.parse_args(arguments)


def _add_kind(kinds: Any, name: str) -> argparse.ArgumentParser:
    kind: argparse.ArgumentParser = kinds.add_parser(name)
    kind.add_argument(
        "--json",
        type=output,
        metavar="FILE",
        help="also write the report there; a path or an address, as s3://BUCKET/NAME",
    )
    return kind


def measure(args: argparse.Namespace) -> Report:
    """The benchmark that the arguments name."""
    from dre_ssod.benchmark.ema import benchmark_ema
    from dre_ssod.benchmark.evaluation import benchmark_evaluation
    from dre_ssod.benchmark.formats import benchmark_formats
    from dre_ssod.benchmark.inference import benchmark_inference
    from dre_ssod.benchmark.loader import (
        benchmark_growth,
        benchmark_loader,
        benchmark_shard_growth,
        benchmark_sources,
    )
    from dre_ssod.benchmark.step import benchmark_step
    from dre_ssod.config.effects import check_effects
    from dre_ssod.config.reading import read_config
    from dre_ssod.workers import compute_with

    if args.what == "growth":
        if args.shards is None:
            return benchmark_growth(args.entries, args.workers)
        args.shards.mkdir(parents=True, exist_ok=True)
        return benchmark_shard_growth(args.entries, args.workers, args.shards.absolute())
    if args.what == "sources":
        return benchmark_sources(args.sources, args.rounds, args.images)
    cfg = read_config(args.config_file, args.opts)
    check_effects(cfg, args.opts[::2])
    if args.what == "eval":
        return benchmark_evaluation(cfg, args.rounds, args.images)
    if args.threads is not None:
        compute_with(args.threads)
    configure(cfg)
    if args.what == "loader":
        return benchmark_loader(cfg, args.rounds, args.images)
    if args.what == "inference":
        return benchmark_inference(cfg, args.rounds, args.images, args.batch)
    benchmarks = {"step": benchmark_step, "formats": benchmark_formats, "ema": benchmark_ema}
    return benchmarks[args.what](cfg, args.rounds)


def configure(cfg: CfgNode) -> None:
    """Complete, check and freeze the config; nothing is written to its OUTPUT_DIR."""
    from dre_ssod.config.checks import check_config
    from dre_ssod.engine.setup import complete

    complete(cfg)
    check_config(cfg, world_size=1)
    cfg.freeze()


def main(args: argparse.Namespace) -> None:
    """Measure, print, write."""
    from dre_ssod.stores import any_file, delivered_file

    with ExitStack() as until:
        path = args.json and until.enter_context(delivered_file(args.json, any_file))[0]
        report = measure(args)
        print(report.text())
        if path:
            report.save(path)


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
