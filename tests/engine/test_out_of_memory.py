"""Out of memory says what a pass holds, and which settings of this config would hold less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dre_ssod.engine.out_of_memory import advice
from dre_ssod.engine.trainer import SSODTrainer
from tests.factories import tiny_cfg
from tests.tiny_dataset import tiny_run, write_tiny_dataset


@pytest.mark.parametrize(
    ("batch", "world_size", "steps", "expected"),
    [
        (20, 1, 1, "SOLVER.ACCUMULATION_STEPS 2 (the same batch, 2 + 8 images in a pass)"),
        (20, 2, 1, "SOLVER.ACCUMULATION_STEPS 2 (the same batch, 1 + 4 images in a pass)"),
        (15, 1, 1, "SOLVER.ACCUMULATION_STEPS 3 (the same batch, 1 + 4 images in a pass)"),
        (40, 1, 2, "SOLVER.ACCUMULATION_STEPS 4 (the same batch, 2 + 8 images in a pass)"),
    ],
)
def test_the_next_number_of_passes_that_divides_the_batch(
    batch: int, world_size: int, steps: int, expected: str
) -> None:
    cfg = tiny_cfg(**{"SOLVER.IMS_PER_BATCH": batch, "SOLVER.ACCUMULATION_STEPS": steps})
    said = advice(cfg, world_size, in_float32=True)
    assert f"Set {expected}, or SOLVER.AMP.ENABLED True" in said
    assert f"SOLVER.IMS_PER_BATCH {batch} over {world_size} process(es)" in said


def test_a_pass_that_cannot_be_split_leaves_the_sizes() -> None:
    cfg = tiny_cfg(**{"SOLVER.IMS_PER_BATCH": 20, "SOLVER.ACCUMULATION_STEPS": 4})
    said = advice(cfg, 1, in_float32=False)
    assert "has 1 labeled and 4 unlabeled images" in said
    assert (
        "Set a smaller INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN than (48, 64) and 96" in said
    )


def test_long_sides_are_sizes_too() -> None:
    cfg = tiny_cfg(**{"SSOD.STRONG_VIEW.LONG_SIDES": (20, 96)})
    said = advice(cfg, 1, in_float32=False)
    assert ", or smaller SSOD.STRONG_VIEW.LONG_SIDES than (20, 96)." in said
    assert "LABELED_VIEW" not in said


def test_a_run_that_does_not_fit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny_run(write_tiny_dataset(tmp_path), tmp_path / "run")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    trainer = SSODTrainer(cfg)

    def step() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nDetails")

    monkeypatch.setattr(trainer._trainer, "run_step", step)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"Tried to allocate 2 GiB\. A pass .* has 2 labeled and 2"
    ):
        trainer.run_step()
