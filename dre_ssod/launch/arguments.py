"""The command line of a program that trains or evaluates: Detectron2's flags, in our words."""

from __future__ import annotations

import argparse


def run_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags of Detectron2's ``default_argument_parser``.

    ``--dist-url`` is ``auto`` where that one has a port that two runs of a user would share.

    Args:
        description: of the program, with examples; shown as it is.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML file of the run")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in OUTPUT_DIR from its last checkpoint; starts it if there is none",
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TEST, no more"
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine, one per GPU (default: 1)",
    )
    parser.add_argument(
        "--num-machines", type=int, default=1, metavar="N", help="machines of the run (default: 1)"
    )
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="I", help="which of them this one is, from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of machine 0, the same on each; auto (default) on one machine",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys and their values"
    )
    return parser
