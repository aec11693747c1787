#!/usr/bin/env python
"""Check on a GPU what a CPU cannot show: the same results, no needless waits, speed, memory.

    python tools/gpu_check.py --json check/report.json
    python tools/gpu_check.py --steps environment,speed,sizes
    python tools/gpu_check.py --device cpu --small

Needs no download and about six minutes. Each step runs in a process of its own and within its own
time limit; the report is printed and saved after every finding. --device cpu --small is a dry run:
it shows that the check works, and measures nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dre_ssod_cli.parsers import count, program_parser, worked_in
from dre_ssod_cli.program import runner

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and images")
    parser.add_argument(
        "--steps",
        default="",
        metavar="A,B",
        help="in this order (default: all): environment, tests, losses, pooling, waits, nccl, "
        "processes, speed, sizes, profile, loading, training, evaluating, tools, resuming",
    )
    parser.add_argument(
        "--patience",
        type=count,
        default=1,
        metavar="N",
        help="times its time limit that a step gets, beside other programs (default: 1)",
    )
    parser.add_argument(
        "--json", type=worked_in, metavar="FILE", help="report; tables and traces go beside it"
    )
    return parser.parse_args(arguments)


def main(args: argparse.Namespace) -> int:
    """Run the chosen steps; returns 0 if all of them passed, else 1.

    Raises:
        ConfigError: if a step is not known.
    """
    from dre_ssod.errors import ConfigError
    from dre_ssod.gpu_check.findings import CheckReport, Setting
    from dre_ssod.gpu_check.runner import run_steps
    from dre_ssod.gpu_check.steps import STEPS

    steps = {step.name: step for step in STEPS}
    chosen = args.steps.split(",") if args.steps else list(steps)
    if unknown := [name for name in chosen if name not in steps]:
        raise ConfigError(f"--steps {', '.join(unknown)}: choose from {', '.join(steps)}")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    report = CheckReport(args.json)
    with tempfile.TemporaryDirectory(prefix="gpu_check") as folder:
        # The sample set is drawn there; forked steps inherit it.
        os.environ["DETECTRON2_DATASETS"] = folder
        kept = None if args.json is None else args.json.parent
        setting = Setting(args.device, args.small, ROOT, Path(folder), kept)
        run_steps([steps[name] for name in chosen], setting, report, args.patience)
    print(report.summary(), flush=True)
    return int(not report.passed)


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
