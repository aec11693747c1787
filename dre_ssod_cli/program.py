"""How a program starts to work once its arguments have been read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def run_program(main: Callable[..., int | None], *arguments: Any) -> int:
    """:func:`dre_ssod.launch.program.run_program`, imported now."""
    from dre_ssod.launch import program

    return program.run_program(main, *arguments)


def run_processes(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> int:
    """The same in each process that the arguments of :func:`.parsers.run_parser` ask for."""
    from dre_ssod.launch import program

    return program.run_program(program.launch_processes, main, args)
