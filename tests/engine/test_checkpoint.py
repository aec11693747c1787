from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dre_ssod.engine.checkpoint import build_checkpointer, load_student, refuse_to_overwrite


class Counter:
    """Stands for the trainer."""

    def __init__(self, count: int) -> None:
        self.count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def linear(value: float) -> nn.Linear:
    layer = nn.Linear(2, 1)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def test_both_models_and_the_trainer_come_back(tmp_path: Path) -> None:
    build_checkpointer(linear(1.0), linear(2.0), Counter(7), str(tmp_path)).save("model_final")
    teacher, student, trainer = linear(0.0), linear(0.0), Counter(0)
    checkpointer = build_checkpointer(teacher, student, trainer, str(tmp_path))
    checkpointer.resume_or_load("", resume=True)
    assert (teacher.weight == 1.0).all()
    assert (student.weight == 2.0).all()
    assert trainer.count == 7


def test_the_deployed_model_is_the_teacher_under_plain_keys(tmp_path: Path) -> None:
    build_checkpointer(linear(1.0), linear(2.0), Counter(0), str(tmp_path)).save("m")
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    assert content["model"].keys() == {"weight", "bias"}
    assert (content["model"]["weight"] == 1.0).all()


def test_the_student_is_found_where_there_is_one(tmp_path: Path) -> None:
    build_checkpointer(linear(1.0), linear(2.0), Counter(0), str(tmp_path)).save("ours")
    torch.save({"model": linear(1.0).state_dict()}, tmp_path / "other.pth")
    student = linear(0.0)
    assert load_student(str(tmp_path / "ours.pth"), student)
    assert (student.weight == 2.0).all()
    untouched = linear(0.0)
    assert not load_student(str(tmp_path / "other.pth"), untouched)
    assert not load_student(str(tmp_path / "missing.pth"), untouched)
    assert not load_student("detectron2://model.pkl", untouched)
    assert (untouched.weight == 0.0).all()


def test_a_file_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "created",)  # type: ignore[return-value]

    torch.save({"student": Attack()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load_student(str(tmp_path / "evil.pth"), linear(0.0))
    assert not (tmp_path / "created").exists()


def test_a_folder_with_checkpoints_is_refused(tmp_path: Path) -> None:
    refuse_to_overwrite(str(tmp_path))
    refuse_to_overwrite(str(tmp_path / "new"))
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(FileExistsError, match=rf"OUTPUT_DIR '{tmp_path}' already holds .*--resume"):
        refuse_to_overwrite(str(tmp_path))
