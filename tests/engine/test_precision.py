"""The number format of a run, on machines that have it, emulate it or lack it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from dre_ssod.engine.precision import announce, autocast_dtype, name_of, use_tf32
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.errors import ConfigError
from tests.factories import tiny_cfg
from tests.tiny_dataset import tiny_run, write_tiny_dataset

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


class Machine:
    """A machine with a processor and a GPU, each with or without units for a number format."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._set = monkeypatch.setattr
        self._set("dre_ssod.engine.precision.platform.machine", lambda: "x86_64")
        self._set(torch.cuda, "device", lambda _: contextlib.nullcontext())

    def processor(self, onednn: bool, avx512_bf16: bool = False, amx: bool = False) -> None:
        # An operator namespace keeps what was set on it before asking the dispatcher.
        self._set(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn, raising=False)
        self._set(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        self._set(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    def gpu(self, capability: tuple[int, int]) -> None:
        self._set(torch.cuda, "get_device_capability", lambda _: capability)
        self._set(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))


def test_without_amp_it_is_float32() -> None:
    assert autocast_dtype(tiny_cfg(), CPU) is None
    assert autocast_dtype(tiny_cfg(), GPU) is None


@pytest.mark.parametrize(
    ("onednn", "avx512_bf16", "amx", "expected"),
    [
        (False, False, False, None),  # AVX2
        (True, False, False, None),  # AVX-512 alone: emulated
        (True, True, False, torch.bfloat16),
        (True, False, True, torch.bfloat16),
        (False, True, True, None),  # ONEDNN_MAX_CPU_ISA=AVX2
    ],
)
def test_auto_on_a_processor(
    machine: Machine, onednn: bool, avx512_bf16: bool, amx: bool, expected: torch.dtype | None
) -> None:
    machine.processor(onednn, avx512_bf16, amx)
    assert autocast_dtype(tiny_cfg(**{"SOLVER.AMP.ENABLED": True}), CPU) is expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), None)],
)
def test_auto_on_a_gpu(
    machine: Machine, capability: tuple[int, int], expected: torch.dtype | None
) -> None:
    machine.gpu(capability)
    assert autocast_dtype(tiny_cfg(**{"SOLVER.AMP.ENABLED": True}), GPU) is expected


def test_auto_is_refused_where_it_is_not_the_same_for_all_processes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.gpu((7, 5))
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, "bfloat16 autocast"])
    cfg = tiny_cfg(**{"SOLVER.AMP.ENABLED": True})
    with pytest.raises(
        ConfigError, match=r"DTYPE is 'auto'.*rank 0: float16 autocast, rank 1: bfloat16 autocast"
    ):
        autocast_dtype(cfg, GPU)
    cfg.SOLVER.AMP.DTYPE = "float16"
    assert autocast_dtype(cfg, GPU) is torch.float16


def test_a_format_that_is_named_is_obeyed_with_one_warning_where_it_is_emulated(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.processor(onednn=True)
    machine.gpu((7, 5))
    cfg = tiny_cfg(**{"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16"})
    for device in (CPU, GPU):
        caplog.clear()
        with caplog.at_level(logging.INFO, "dre_ssod"):
            dtype = autocast_dtype(cfg, device)
            announce(cfg, device, dtype)
        assert dtype is torch.bfloat16
        said, warned = caplog.records
        assert f"Training in bfloat16 autocast on {device}" in said.getMessage()
        assert (warned.levelname, "only emulates" in warned.getMessage()) == ("WARNING", True)
    cfg.SOLVER.AMP.DTYPE = "float16"
    assert autocast_dtype(cfg, GPU) is torch.float16
    with pytest.raises(ConfigError, match=r"SOLVER.AMP.DTYPE is 'float16' .* use 'bfloat16'"):
        autocast_dtype(cfg, CPU)


def test_where_it_is_computed_there_is_no_warning(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.processor(onednn=True, amx=True)
    cfg = tiny_cfg(**{"SOLVER.AMP.ENABLED": True})
    with caplog.at_level(logging.INFO, "dre_ssod"):
        announce(cfg, CPU, torch.bfloat16)
        announce(tiny_cfg(), CPU, None)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "the fastest that this machine computes in" in caplog.messages[0]
    assert "Training in float32 on cpu (SOLVER.AMP.ENABLED is False)" in caplog.messages[1]


def test_a_run_that_goes_on_elsewhere_says_that_it_computes_in_another_format(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = tiny_run(write_tiny_dataset(tmp_path), tmp_path / "run")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.SOLVER.AMP.ENABLED = True
    machine.processor(onednn=True, amx=True)
    first = SSODTrainer(cfg)
    assert first.precision == "bfloat16 autocast"
    first.iter = 1
    state = first.state_dict()
    SSODTrainer(cfg).load_state_dict(state)
    assert "So far" not in caplog.text
    machine.processor(onednn=False)
    second = SSODTrainer(cfg)
    second.load_state_dict(state)
    assert "So far the run trained in bfloat16 autocast; from here on it trains in float32" in (
        caplog.text
    )
    assert second._trainer.settings.autocast_dtype is None


@pytest.fixture
def tf32_kept() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("tf32_kept")
@pytest.mark.parametrize(
    ("choice", "convolutions", "products"),
    [("none", False, False), ("convolutions", True, False), ("all", True, True)],
)
def test_tf32(choice: str, convolutions: bool, products: bool) -> None:
    use_tf32(tiny_cfg(**{"MODEL.TF32": choice}))
    assert torch.backends.cudnn.allow_tf32 is convolutions
    assert torch.backends.cuda.matmul.allow_tf32 is products


def test_names() -> None:
    assert name_of(None) == "float32"
    assert name_of(torch.float16) == "float16 autocast"
