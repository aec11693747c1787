#!/usr/bin/env python
"""Give a command to Slurm: it saves when it must make room, and continues when it is back.

    python tools/submit.py --slurm slurm_partition=gpu,gpus_per_node=8,cpus_per_task=8 \\
        --nodes 2 --processes 8 train_net.py --config-file configs/coco_1pct.yaml
    python tools/submit.py --slurm slurm_partition=gpu,gpus_per_node=1,cpus_per_task=8 --jobs 16 \\
        tools/pseudo_label.py --run output/run --input photos --output labeled

Options come before the program; all after it is the program's. --processes are those of a training,
on one GPU each; --jobs are independent ones, for labeling.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from dre_ssod_cli.parsers import count, parse_slurm, program_parser, worked_in
from dre_ssod_cli.program import runner

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("train_net.py", "tools/pseudo_label.py")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``given`` is what the program makes of its own."""
    parser = program_parser(__doc__)
    parser.add_argument("--nodes", type=count, default=1, metavar="N", help="machines (default: 1)")
    parser.add_argument(
        "--processes", type=count, default=1, metavar="N", help="on each machine (default: 1)"
    )
    parser.add_argument(
        "--jobs", type=count, default=1, metavar="N", help="of tools/pseudo_label.py (default: 1)"
    )
    parser.add_argument(
        "--slurm",
        default="",
        metavar="KEY=VALUE,...",
        help="options of submitit's executor; without timeout_min, jobs of 240 minutes, which are "
        "requeued at their end",
    )
    parser.add_argument(
        "--folder",
        type=worked_in,
        default=Path("output/slurm"),
        metavar="DIR",
        help="for submitit's files and what the jobs print (default: output/slurm)",
    )
    parser.add_argument("program", choices=PROGRAMS, help="what is run")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="its command line")
    args = parser.parse_args(arguments)
    args.slurm = parse_slurm(parser, args.slurm)
    if args.jobs > 1 and args.program == "train_net.py":
        parser.error("--jobs are of tools/pseudo_label.py; a training has --nodes and --processes")
    args.given = _parse(args.program, args.words)
    for name in ("num_gpus", "num_machines"):
        if getattr(args.given, name, 1) != 1:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option}: Slurm starts the processes; use --nodes and --processes")
    return args


def _parse(program: str, words: list[str]) -> argparse.Namespace:
    """Read the command line of a program; what is wrong with it shows now, not in the queue."""
    before, sys.argv = sys.argv, [program]
    try:
        given: argparse.Namespace = runpy.run_path(str(ROOT / program))["parse_arguments"](words)
    finally:
        sys.argv = before
    return given


def main(args: argparse.Namespace) -> None:
    """Submit the command, and say which jobs it has become."""
    from dre_ssod.checkpoints.checkpointer import refuse_to_overwrite
    from dre_ssod.config.checks import check_config
    from dre_ssod.config.effects import check_effects
    from dre_ssod.config.reading import read_config
    from dre_ssod.launch.slurm import Requeued, run_file, submit

    if args.program == "train_net.py":
        cfg = read_config(args.given.config_file, args.given.opts)
        check_config(cfg, args.nodes * args.processes)
        if not args.given.eval_only:
            check_effects(cfg, args.given.opts[::2])
        if not (args.given.resume or args.given.eval_only):
            refuse_to_overwrite(cfg.OUTPUT_DIR)
    job = Requeued(run_file, ROOT / args.program, args.words)
    options = {"name": Path(args.program).stem, **args.slurm}
    options |= {"nodes": args.nodes, "tasks_per_node": args.processes}
    for submitted in submit(job, args.folder.absolute(), options, count=args.jobs):
        print(f"job {submitted.job_id}: prints into {submitted.paths.stdout}")


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
