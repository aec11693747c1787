#!/usr/bin/env python
"""Look for mistakes in datasets: annotations, image files, duplicates and leakage into the test.

    python tools/check_dataset.py --config-file configs/bccd_10pct.yaml
    python tools/check_dataset.py --labeled "coco://train.json?images=photos" \\
        --unlabeled folder://more_photos --test "coco://val.json?images=photos"

Exit code 0: no error. 1: an error was found. 2: the command is wrong, or --json cannot be written.
Warnings are listed and do not change the code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dre_ssod_cli.parsers import count, output, program_parser, whole
from dre_ssod_cli.program import runner

KEYS = {"labeled": "TRAIN", "unlabeled": "UNLABELED", "test": "TEST"}
"""The key of cfg.DATASETS that names the sets of each role."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    parser.add_argument("--config-file", metavar="FILE", default="", help="check DATASETS of it")
    for role in KEYS:
        parser.add_argument(
            f"--{role}",
            metavar="SET",
            nargs="+",
            action="extend",
            default=[],
            help=f"{role} sets, by name or URI",
        )
    parser.add_argument(
        "--level",
        choices=("header", "full"),
        default="header",
        help="header (default): sizes, and whether files are whole, without decoding; "
        "full: decode every image as training does",
    )
    parser.add_argument(
        "--json",
        type=output,
        metavar="FILE",
        help="write the whole report there, a new file; a path or an address, as s3://BUCKET/NAME",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=count,
        default=_cores(),
        help="processes (default: all cores)",
    )
    parser.add_argument(
        "--examples", metavar="N", type=whole, default=3, help="shown of each finding (default: 3)"
    )
    parser.add_argument(
        "--explain", action="store_true", help="print what every finding means, and end"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config")
    parsed = parser.parse_args(arguments)
    if isinstance(parsed.json, Path) and not parsed.json.parent.is_dir():
        parser.error(f"--json {parsed.json}: there is no folder {parsed.json.parent}")
    return parsed


def _sets(parsed: argparse.Namespace) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Names of the sets by role, from the config or the options, and what else a config says."""
    from dre_ssod.config.reading import read_config
    from dre_ssod.data.views.views import ViewRecipe
    from dre_ssod.errors import ConfigError

    settings: dict[str, Any] = {}
    sets = {role: list(getattr(parsed, role)) for role in KEYS}
    by_config = bool(parsed.config_file or parsed.opts)
    if by_config and any(sets.values()):
        raise ConfigError(
            "name the sets by a config or by --labeled, --unlabeled, --test, not by both"
        )
    if by_config:
        cfg = read_config(parsed.config_file, parsed.opts)
        sets = {role: list(cfg.DATASETS[key]) for role, key in KEYS.items()}
        views = (ViewRecipe.labeled(cfg), ViewRecipe.weak(cfg), ViewRecipe.strong(cfg))
        trained = min(view.max_size for view in views)
        settings = {
            "detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "longest": {**dict.fromkeys(KEYS, trained), "test": cfg.INPUT.MAX_SIZE_TEST},
            "overlap": cfg.DATASETS.UNLABELED_OVERLAP,
        }
    if not any(sets.values()):
        raise ConfigError("there is no set to check: name some by --config-file or --labeled ...")
    return sets, settings


def main(args: argparse.Namespace) -> int:
    """Check, print, write; returns 1 if an error was found."""
    from tqdm import tqdm

    from dre_ssod.data.audit.audit import audit
    from dre_ssod.data.audit.report import as_dict, as_text, kinds_table
    from dre_ssod.files import write_text
    from dre_ssod.stores import delivered_file

    if args.explain:
        print(kinds_table())
        return 0
    with ExitStack() as until:
        path = args.json and until.enter_context(delivered_file(args.json))[0]
        sets, settings = _sets(args)
        with tqdm(desc="images", unit="", dynamic_ncols=True, disable=None) as bar:
            report = audit(sets, args.level, args.workers, bar, **settings)
        print(as_text(report, args.examples))
        if path:
            write_text(path, json.dumps(as_dict(report), indent=1, allow_nan=False) + "\n")
    return int(report.failed)


run = runner(main, parse_arguments)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(run())
