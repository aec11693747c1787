"""A program's own words are all that it prints: what other packages say at a start is silenced."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

PROGRAMS = [ROOT / "train_net.py", *sorted((ROOT / "tools").glob("*.py"))]
QUIET = ("detectron2.config", "detectron2.utils", "detectron2.utils.logger")
"""Of Detectron2, what may be imported before this package."""


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_imports_nothing_that_speaks_first(program: Path) -> None:
    """Imports are sorted, so those of Detectron2 come before this package's."""
    tree = ast.parse(program.read_text(encoding="utf-8"))
    first = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    assert {name for name in first if name.startswith(("detectron2", "fvcore"))} <= {*QUIET}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_the_help_shows_how_it_is_called(program: Path) -> None:
    documentation = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8")), clean=False)
    assert documentation is not None
    assert f"    python {program.relative_to(ROOT)} " in documentation


def test_help_is_all_that_is_printed() -> None:
    imports = "".join(f"import {name}\n" for name in QUIET)
    program = f"{imports}import runpy, sys\nsys.argv = ['train_net.py', '--help']\n"
    result = run("-c", f"{program}runpy.run_path('train_net.py', run_name='__main__')")
    assert (result.returncode, result.stderr) == (0, "")
    # From Python 3.13 on, docstrings have lost their indentation.
    assert "python train_net.py --config-file configs/quickstart.yaml --resume\n" in result.stdout


WARN = """
import logging, warnings
import dre_ssod
import torch
warnings.warn("`torch.jit.script` is deprecated. Use another.", FutureWarning)
warnings.warn("pkg_resources is deprecated as an API", UserWarning)
torch.meshgrid(torch.arange(2), torch.arange(3))
from torch.utils import cpp_extension
cpp_extension.logger.warning("No CUDA runtime is found, using CUDA_HOME='/usr/local'")
logging.getLogger("torch.fx._symbolic_trace").warning("is_fx_tracing will return true for both")
"""
OTHERS = """
warnings.warn("something else is deprecated", FutureWarning)
cpp_extension.logger.warning("something else about CUDA")
"""


def test_what_nobody_can_help_is_silenced_and_nothing_else() -> None:
    shown = run("-c", WARN + OTHERS).stderr
    assert "FutureWarning: something else is deprecated" in shown
    assert "something else about CUDA" in shown
    assert not any(word in shown for word in ("jit", "pkg_resources", "meshgrid", "fx_tracing"))
    assert "CUDA runtime" not in shown


def test_the_user_may_ask_for_them() -> None:
    """A filter of the command line comes first."""
    result = run("-W", "error::FutureWarning", "-c", "import dre_ssod")
    assert "FutureWarning: `torch.jit.script` is " in result.stderr
