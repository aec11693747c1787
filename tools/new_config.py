#!/usr/bin/env python
"""Write a first config for your own images, and say what each of its values was made from.

    python tools/new_config.py --labeled 'coco://labels.json?images=photos' \\
        --unlabeled folder://more_photos --test 'coco://val.json?images=photos' --output mine.yaml
    python tools/new_config.py --labeled 'voc://BCCD?split=train' --percent 10 \\
        --test 'voc://BCCD?split=test' --output bccd.yaml

Only labels are read, and the machine is looked at; the file is yours to change. The command that
trains with it is printed.
"""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dre_ssod_cli.parsers import local, program_parser
from dre_ssod_cli.program import runner

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    several = functools.partial(parser.add_argument, nargs="+", action="extend", metavar="SET")
    several("--labeled", required=True, help="URIs or names")
    several("--unlabeled", default=[], help="such as folder://DIR")
    several("--test", default=[], help="labeled, to measure on")
    parser.add_argument(
        "--percent", type=float, default=100.0, help="of --labeled that stays so (default: 100)"
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="", help="default: what is there"
    )
    here = functools.partial(local, why="it names the config that it builds upon by a path from it")
    parser.add_argument("--output", required=True, type=here, metavar="FILE", help="YAML to write")
    return parser.parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    """Look, choose, write, check, print."""
    from dre_ssod.advice.choices import plan
    from dre_ssod.advice.config_file import as_yaml
    from dre_ssod.advice.facts import Sources, look_at_data, look_at_machine
    from dre_ssod.config.checks import check_config
    from dre_ssod.config.reading import read_config
    from dre_ssod.errors import ConfigError
    from dre_ssod.files import write_text

    if args.output.exists():
        raise ConfigError(f"--output {args.output} is there already: choose another name")
    sources = Sources(
        tuple(args.labeled), tuple(args.unlabeled), tuple(args.test), float(args.percent)
    )
    machine = look_at_machine(args.device)
    data = look_at_data(sources)
    found = plan(sources, data, machine, f"output/{args.output.stem}")
    configs = os.path.relpath(ROOT / "configs", args.output.resolve().parent)
    words = shlex.join(sys.argv[1:])
    text = as_yaml(found, configs, f"tools/new_config.py {words}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.output, text)
    try:
        check_config(read_config(str(args.output)), world_size=1)
    except BaseException:
        # The same command, once its cause is gone, would be refused for the file.
        args.output.unlink()
        raise
    print(text)
    print(f"Written: {args.output}. Train with it, here or on a machine like this:")
    print(f"  python train_net.py --config-file {shlex.quote(str(args.output))}")


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
