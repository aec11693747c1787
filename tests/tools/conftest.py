"""What every test of a command-line tool starts from."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.tiny_dataset import loggers_kept


@pytest.fixture(scope="module")
def tool(request: pytest.FixtureRequest) -> ModuleType:
    """The program that a test file is named after: ``test_demo.py`` tests ``tools/demo.py``."""
    return importlib.import_module(f"tools.{request.path.stem.removeprefix('test_')}")


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    with loggers_kept():
        yield
