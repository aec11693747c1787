"""How a program starts to work once its arguments have been read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Protocol


class Run(Protocol):
    """Runs a tool with command-line arguments; returns its exit code."""

    def __call__(self, arguments: list[str] | None = None) -> int: ...


def runner(
    main: Callable[[argparse.Namespace], int | None],
    parse_arguments: Callable[[list[str] | None], argparse.Namespace],
) -> Run:
    """The ``run`` of a tool, by ``dre_ssod.launch.program.run_program``, imported only then."""

    def run(arguments: list[str] | None = None) -> int:
        args = parse_arguments(arguments)
        from dre_ssod.launch import program

        return program.run_program(main, args)

    return run


def run_processes(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> int:
    """Run ``main`` in each process that the arguments of :func:`.parsers.run_parser` ask for."""
    from dre_ssod.launch import program

    return program.run_program(program.launch_processes, main, args)
