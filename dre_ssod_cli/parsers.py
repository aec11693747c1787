"""Parsers and options that several programs share."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def program_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser without options.

    Args:
        description: of the program, with examples; shown as it is.
    """
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def output(text: str) -> Path | str:
    """The type of an argument that says where a finished result is put: a path, or an address.

    ``dre_ssod.stores.delivered_file`` and ``delivered_folder`` take it.
    """
    # With one slash it is a mistake that would make a folder "s3:".
    return text if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) else Path(text)


def local(text: str, why: str = "it is read from a disk; copy it to one first") -> Path:
    """The type of an argument that names a file or folder of this machine.

    ``Path`` alone would make a folder ``s3:`` of an address.

    Args:
        why: it must be of this machine.
    """
    path = output(text)
    if isinstance(path, str):
        raise argparse.ArgumentTypeError(
            f"{text} is an address; name a path of this machine: {why}"
        )
    return path


def worked_in(text: str) -> Path:
    """The same of what is written to, and read again, until all is done."""
    return local(
        text,
        "work that is resumed needs the files and locks of a disk; copy it to the store when all "
        "is done",
    )


def run_parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of a program that trains or evaluates: Detectron2's flags, in our words.

    ``--dist-url`` is ``auto`` where Detectron2 has a port that two runs of a user would share.

    Args:
        description: as of :func:`program_parser`.
    """
    parser = program_parser(description)
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="YAML file of the run; several with commas between them: later ones win",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in OUTPUT_DIR from its last checkpoint; starts it if there is none",
    )
    either.add_argument(
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


def count(text: str, least: int = 1) -> int:
    """The type of an argument that is a number from 1 on."""
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} is less than {least}")
    return number


def whole(text: str) -> int:
    """The same of a number that may be 0."""
    return count(text, 0)


def parse_slurm(parser: argparse.ArgumentParser, text: str) -> dict[str, str | int]:
    """The options of ``--slurm KEY=VALUE,...``; ends the program where they are none."""
    words = [word for word in text.split(",") if word]
    if not all("=" in word for word in words):
        parser.error(f"--slurm is {text!r}; it must be KEY=VALUE,... or ''")
    pairs = [word.partition("=") for word in words]
    return {key: int(value) if value.isdigit() else value for key, _, value in pairs}


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, which ``dre_ssod.deployment.trained_model.load_trained`` takes."""
    parser.add_argument(
        "--model",
        choices=("teacher", "student"),
        default="teacher",
        help="of the checkpoint; the student is the better one where a run was too short for its "
        "moving average (default: teacher)",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what names a trained model; ``configure_arguments`` of that module takes it."""
    parser.add_argument(
        "--run",
        default="",
        metavar="PATH",
        help="folder of a training run, or a checkpoint: settings and classes are taken from it",
    )
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="in place of the checkpoint's settings; MODEL.WEIGHTS may then name the checkpoint",
    )
    add_model_option(parser)
    parser.add_argument(
        "--classes", default="", metavar="A,B", help="names of the classes, where nothing tells"
    )
