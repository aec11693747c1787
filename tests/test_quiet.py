"""A program's own words are all that it prints: what other packages say at a start is silenced."""

from __future__ import annotations

import os
import subprocess
import sys

from tests import ROOT


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"},
        capture_output=True,
        text=True,
        timeout=300,
    )


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
