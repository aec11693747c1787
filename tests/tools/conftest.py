"""What every test of a command-line tool starts from."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

import pytest


@dataclass(frozen=True)
class Ended:
    """A program that is over."""

    code: int

    def exit_code(self) -> int:
        return self.code

    def stop(self) -> None:
        """There is nothing to stop."""


@pytest.fixture(scope="module")
def tool(request: pytest.FixtureRequest) -> ModuleType:
    """The program that a test file is named after: ``test_demo.py`` tests ``tools/demo.py``."""
    return importlib.import_module(f"tools.{request.path.stem.removeprefix('test_')}")


@pytest.fixture(autouse=True)
def _loggers(kept_loggers: None) -> None:
    """Programs change the loggers."""
