"""Checkpoints: plain Detectron2 files whose ``model`` is the teacher.

Entries: ``model`` (teacher, plain keys), ``student``, ``trainer`` (iteration, optimizer, scheduler,
gradient scaler, seed) and ``iteration``. ``DefaultPredictor``, ``--eval-only`` and Detectron2's
demo read ``model``, which is the detector to be deployed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn


def build_checkpointer(
    teacher: nn.Module, student: nn.Module, trainer: Any, output_dir: str
) -> DetectionCheckpointer:
    """A checkpointer for both models and the trainer.

    Args:
        student: without its DDP wrapper.
        trainer: object with ``state_dict`` and ``load_state_dict``.
    """
    return DetectionCheckpointer(teacher, output_dir, student=student, trainer=trainer)


def refuse_to_overwrite(output_dir: str) -> None:
    """Raise if a new run would write over the checkpoints of an older one.

    Raises:
        FileExistsError: if ``output_dir`` has a ``last_checkpoint``.
    """
    if (Path(output_dir) / "last_checkpoint").exists():
        raise FileExistsError(
            f"OUTPUT_DIR {output_dir!r} already holds the checkpoints of a run. Continue it with "
            "--resume, or choose another OUTPUT_DIR."
        )


def load_student(path: str, model: nn.Module) -> bool:
    """Load the ``student`` entry of a checkpoint file into ``model``.

    Returns:
        False if the file has none, as with any checkpoint not made by this project.
    """
    if not Path(path).is_file():
        return False
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if "student" not in checkpoint:
        return False
    model.load_state_dict(checkpoint["student"])
    return True
