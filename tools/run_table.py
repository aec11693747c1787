#!/usr/bin/env python
"""Run a table of methods over seeds or folds, and write what came out.

    python tools/run_table.py docs/tables/bccd_methods.yaml --results docs/results
    python tools/run_table.py table.yaml --at-once 2 --threads 4 SOLVER.MAX_ITER 2000
    python tools/run_table.py table.yaml --row DRE --row "mean teacher" --run "fold 0"
    python tools/run_table.py table.yaml --slurm slurm_partition=gpu,gpus_per_node=1 --at-once 8
    python tools/run_table.py table.yaml --report --reference supervised

Runs that have a result in --results are not run again, interrupted ones continue where they
stopped: start the same command again. Runs that are the same until the end of their burn-in share
it, and those that train the same model train it once. Writes OUTPUT/NAME.md, NAME.json and NAME.png
after each run. The form of the YAML: docs/tables.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dre_ssod_cli.parsers import count, local, parse_slurm, program_parser, worked_in
from dre_ssod_cli.program import runner

PROGRAM = Path(__file__).resolve().parent.parent / "train_net.py"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    parser.add_argument("table", type=local, metavar="YAML", help="rows and runs")
    parser.add_argument(
        "--output",
        type=worked_in,
        default=Path("output/tables"),
        metavar="DIR",
        help="for all runs",
    )
    parser.add_argument(
        "--results",
        type=worked_in,
        metavar="DIR",
        help="for results that are kept (OUTPUT/results)",
    )
    parser.add_argument("--at-once", type=count, default=1, metavar="N", help="runs at a time")
    parser.add_argument(
        "--threads", type=count, metavar="N", help="of each run (default: its share of the cores)"
    )
    parser.add_argument("--row", action="append", metavar="NAME", help="run this row alone")
    parser.add_argument("--run", action="append", metavar="NAME", help='such as "fold 0", alone')
    parser.add_argument(
        "--slurm", metavar="KEY=VALUE,...", help="by Slurm, with options of submitit, or ''"
    )
    parser.add_argument("--report", action="store_true", help="run nothing; write what is there")
    parser.add_argument(
        "--reference", metavar="NAME", help="the row to compare with (default: the table's)"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys, for all rows")
    args = parser.parse_intermixed_args(arguments)
    given = [name for name in ("row", "run", "slurm") if getattr(args, name) is not None]
    if args.report and given:
        parser.error(
            f"--report runs nothing and writes all rows: it does not go with --{', --'.join(given)}"
        )
    if args.slurm is not None:
        args.slurm = parse_slurm(parser, args.slurm)
    return args


def main(args: argparse.Namespace) -> None:
    """Run what is missing, keep it, report."""
    from dre_ssod.tables.definition import read_table
    from dre_ssod.tables.processes import LocalStarter, SlurmStarter
    from dre_ssod.tables.running import run_missing, write_report

    results = args.results or args.output / "results"
    table = read_table(args.table, args.opts)
    if args.reference is not None:
        table = table.compared_with(args.reference)
    looked = None
    if not args.report:
        threads = args.threads or max(1, (os.cpu_count() or 1) // args.at_once)
        start = (
            LocalStarter(PROGRAM, threads)
            if args.slurm is None
            else SlurmStarter(PROGRAM, threads, args.slurm)
        )
        cells = table.chosen(args.row, args.run)
        looked = run_missing(table, cells, start, args.at_once, args.output, results)
    print(write_report(table, results, args.output, looked))


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
