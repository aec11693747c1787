"""A start: what other packages say is silenced, and slow ones are imported by who needs them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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


IMPORT = """
import sys
import dre_ssod
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
print("GaussianROIHeads" in ROI_HEADS_REGISTRY, "SemiSupervisedRCNN" in META_ARCH_REGISTRY)
print("build_timm_fpn_backbone" in BACKBONE_REGISTRY)
import dre_ssod.engine.setup, dre_ssod.engine.stages, dre_ssod.launch.program
print({"timm", "matplotlib", "torch._dynamo"} & {*sys.modules})
"""
WARN = """
import logging, warnings
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


@pytest.fixture(scope="module")
def started() -> subprocess.CompletedProcess[str]:
    return run("-c", IMPORT + WARN + OTHERS)


def test_a_program_that_works_imports_slow_packages_only_when_it_needs_them(
    started: subprocess.CompletedProcess[str],
) -> None:
    """Nor is registering the detector left out: ``import dre_ssod`` alone does it."""
    assert started.stdout.split() == ["True", "True", "True", "set()"], started.stderr


def test_what_nobody_can_help_is_silenced_and_nothing_else(
    started: subprocess.CompletedProcess[str],
) -> None:
    shown = started.stderr
    assert "FutureWarning: something else is deprecated" in shown
    assert "something else about CUDA" in shown
    assert not any(word in shown for word in ("jit", "pkg_resources", "meshgrid", "fx_tracing"))
    assert "CUDA runtime" not in shown


def test_the_user_may_ask_for_them() -> None:
    """A filter of the command line comes first."""
    result = run("-W", "error::FutureWarning", "-c", "import dre_ssod")
    assert "FutureWarning: `torch.jit.script` is " in result.stderr
