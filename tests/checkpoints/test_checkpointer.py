from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dre_ssod.checkpoints.checkpointer import SafeCheckpointer, refuse_to_overwrite
from dre_ssod.checkpoints.weights import load_student
from dre_ssod.errors import CheckpointError, UntrustedFileError


class Counter:
    """Stands for the trainer."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked = 0

    def state_dict(self) -> dict[str, int]:
        self.asked += 1
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def saver(
    folder: Path, teacher: nn.Module, student: nn.Module, trainer: Counter
) -> SafeCheckpointer:
    return SafeCheckpointer(teacher, str(folder), student=student, trainer=trainer)


def linear(value: float) -> nn.Linear:
    layer = nn.Linear(2, 1)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


class Attack:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


def test_both_models_and_the_trainer_come_back(tmp_path: Path) -> None:
    first = saver(tmp_path, linear(1.0), linear(2.0), Counter(7))
    first.save("model_0000007", iteration=7)
    teacher, student, trainer = linear(0.0), linear(0.0), Counter(0)
    checkpointer = saver(tmp_path, teacher, student, trainer)
    last = checkpointer.find_last()
    assert last == str(tmp_path / "model_0000007.pth")
    assert checkpointer.load(last)["iteration"] == 7
    assert (teacher.weight == 1.0).all()
    assert (student.weight == 2.0).all()
    assert trainer.count == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000007.pth",
    ]


def test_other_processes_are_asked_for_their_state_and_write_nothing(tmp_path: Path) -> None:
    trainer = Counter(7)
    checkpointer = saver(tmp_path, linear(1.0), linear(2.0), trainer)
    checkpointer.save_to_disk = False
    checkpointer.save("model_0000007", iteration=7)
    assert trainer.asked == 1
    assert not list(tmp_path.iterdir())


def test_a_failed_save_names_the_file_and_leaves_the_one_before(tmp_path: Path) -> None:
    checkpointer = saver(tmp_path, linear(1.0), linear(2.0), Counter(7))
    checkpointer.save("model_0000007", iteration=7)
    (tmp_path / "model_0000008.pth").mkdir()
    with pytest.raises(CheckpointError, match=r"model_0000008\.pth cannot be written"):
        checkpointer.save("model_0000008", iteration=8)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"


def test_what_an_interrupted_write_left_is_removed(tmp_path: Path) -> None:
    checkpointer = saver(tmp_path, linear(1.0), linear(2.0), Counter(7))
    checkpointer.save("model_0000007", iteration=7)
    (tmp_path / "model_0000009.pth.partial").write_bytes(b"cut off")
    assert checkpointer.find_last() is not None
    assert not list(tmp_path.glob("*.partial"))


def test_the_deployed_model_is_the_teacher_under_plain_keys(tmp_path: Path) -> None:
    saver(tmp_path, linear(1.0), linear(2.0), Counter(0)).save("m")
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    assert content["model"].keys() == {"weight", "bias"}
    assert (content["model"]["weight"] == 1.0).all()


def test_the_student_is_found_where_there_is_one(tmp_path: Path) -> None:
    saver(tmp_path, linear(1.0), linear(2.0), Counter(0)).save("ours")
    torch.save({"model": linear(1.0).state_dict()}, tmp_path / "other.pth")
    student = linear(0.0)
    assert load_student(str(tmp_path / "ours.pth"), student)
    assert (student.weight == 2.0).all()
    untouched = linear(0.0)
    assert not load_student(str(tmp_path / "other.pth"), untouched)
    assert not load_student(str(tmp_path / "missing.pth"), untouched)
    assert not load_student("detectron2://model.pkl", untouched)
    assert (untouched.weight == 0.0).all()


WEIGHTS = {"weight": np.full((1, 2), 5.0, np.float32), "bias": np.full(1, 6.0, np.float32)}


@pytest.mark.parametrize(
    "content",
    [
        {"model": WEIGHTS, "__author__": "Detectron2 Model Zoo"},
        # Caffe2's detectors and its ImageNet models: names are matched, momentum is left out.
        {"blobs": WEIGHTS | {"weight_momentum": np.zeros((1, 2), np.float32)}},
        dict(WEIGHTS),
    ],
)
def test_files_of_the_model_zoos_are_read(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content, 2))
    model = linear(0.0)
    SafeCheckpointer(model).load(str(tmp_path / "zoo.pkl"))
    assert (model.weight == 5.0).all()
    assert (model.bias == 6.0).all()


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_of_others_are_read(tmp_path: Path, legacy: bool) -> None:
    state = linear(5.0).state_dict()
    new = not legacy
    torch.save({"model": state}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    torch.save({"model_state": state}, tmp_path / "b.pyth", _use_new_zipfile_serialization=new)
    torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=new)
    for name in ("a.pth", "b.pyth", "c.pth", "c.pth?matching_heuristics=True"):
        model = linear(0.0)
        SafeCheckpointer(model).load(str(tmp_path / name))
        assert (model.weight == 5.0).all(), name


def test_an_address_goes_through_detectron2s_files_and_the_same_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectron2.utils.file_io import PathManager

    asked = []

    def fetch(path: str, *_: object, **__: object) -> str:
        asked.append(path)
        return str(tmp_path / Path(path).name)

    monkeypatch.setattr(PathManager, "get_local_path", fetch)
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": WEIGHTS, "__author__": "zoo"}))
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Attack(tmp_path / "created")}))
    model = linear(0.0)
    SafeCheckpointer(model).load("https://example.org/zoo.pkl")
    assert (model.weight == 5.0).all()
    with pytest.raises(UntrustedFileError):
        SafeCheckpointer(model).load("https://example.org/evil.pkl")
    assert "https://example.org/evil.pkl" in asked
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pth", "evil.pyth"])
def test_a_file_that_runs_code_is_not_loaded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PyTorch's switch back to the unsafe way has no say.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file, created = tmp_path / name, tmp_path / "created"
    content = {"model": Attack(created), "model_state": Attack(created), "student": {}}
    if name.endswith(".pkl"):
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    with pytest.raises(UntrustedFileError, match=name):
        SafeCheckpointer(linear(0.0)).load(str(file))
    with pytest.raises(UntrustedFileError, match=name):
        load_student(str(file), linear(0.0))
    assert not created.exists()
    # The attack is a real one.
    pickle.loads(pickle.dumps(Attack(created)))
    assert created.exists()


@pytest.mark.parametrize("name", ["last_checkpoint", "model_0000004.pth", "model_final.pth"])
def test_a_folder_with_checkpoints_is_refused(tmp_path: Path, name: str) -> None:
    refuse_to_overwrite(str(tmp_path))
    refuse_to_overwrite(str(tmp_path / "new"))
    (tmp_path / "pretrained.pth").write_bytes(b"x")
    refuse_to_overwrite(str(tmp_path))
    (tmp_path / name).write_text("x")
    with pytest.raises(FileExistsError, match=rf"OUTPUT_DIR '{tmp_path}' already holds .*--resume"):
        refuse_to_overwrite(str(tmp_path))
