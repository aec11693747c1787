from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.checkpoints.folder import (
    add_name,
    clear_old,
    find_damage,
    find_last,
    name_last,
    open_checkpoint,
    read_tensors,
)
from dre_ssod.errors import CheckpointError, UntrustedFileError


def content(iteration: int) -> dict[str, Any]:
    weights = torch.arange(100.0) + iteration
    return {
        "model": {"w": weights},
        "student": {"w": weights},
        "trainer": {"note": "x"},
        "iteration": iteration,
    }


def save(folder: Path, iteration: int, name: str | None = None) -> Path:
    path = folder / (name or f"model_{iteration:07d}.pth")
    torch.save(content(iteration), path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with three checkpoints, the newest named."""
    for iteration in (4, 9, 14):
        save(tmp_path, iteration)
    name_last(tmp_path, "model_0000014.pth")
    return tmp_path


def test_the_named_checkpoint_is_taken(run: Path) -> None:
    found = find_last(run)
    assert found is not None
    assert (found.iteration, found.path) == (14, run / "model_0000014.pth")
    # An older one too: somebody wants to go back.
    name_last(run, "model_0000004.pth")
    found = find_last(run)
    assert found is not None
    assert found.iteration == 4


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    """In the middle of the weights, where no structure would show it."""
    data = bytearray(path.read_bytes())
    position = data.index(content(14)["model"]["w"].numpy().tobytes()) + 200
    data[position] ^= 1
    path.write_bytes(data)


def replace_by_text(path: Path) -> None:
    path.write_text("not a checkpoint")


def replace_by_weights(path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(2)}}, path)


def replace_by_code(path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (path.parent / "created",)

    torch.save(content(14) | {"trainer": Attack()}, path)


def remove(path: Path) -> None:
    path.unlink()


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (empty, "is empty"),
        (truncate, "cut off or damaged"),
        (flip_a_bit, "checksum does not fit"),
        (replace_by_text, "cut off or damaged"),
        (replace_by_weights, "holds no run, only weights"),
        (replace_by_code, "would run code"),
        (remove, "does not exist"),
        (replace_by_folder, "does not exist"),
    ],
)
def test_a_spoiled_last_checkpoint_is_reported_and_the_one_before_it_taken(
    run: Path, spoil: Callable[[Path], None], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(run / "model_0000014.pth")
    with caplog.at_level("WARNING"):
        found = find_last(run)
    assert found is not None
    assert found.iteration == 9
    assert "model_0000014.pth" in caplog.text
    assert said in caplog.text
    assert "continuing from model_0000009.pth" in caplog.text
    assert not (run / "created").exists()


@pytest.mark.parametrize(
    "text", [None, "", "model_9999999.pth", "../../etc/passwd", "\0", "é" * 300]
)
def test_without_a_usable_name_the_newest_checkpoint_is_taken(
    run: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "last_checkpoint").unlink()
    if text is not None:
        (run / "last_checkpoint").write_text(text, encoding="utf-8")
    with caplog.at_level("WARNING"):
        found = find_last(run)
    assert found is not None
    assert found.iteration == 14
    assert "continuing from model_0000014.pth" in caplog.text


def test_best_and_final_count_by_their_iteration(run: Path) -> None:
    (run / "last_checkpoint").unlink()
    save(run, 7, "model_best.pth")
    found = find_last(run)
    assert found is not None
    assert found.iteration == 14
    save(run, 20, "model_final.pth")
    found = find_last(run)
    assert found is not None
    assert found.path.name == "model_final.pth"


def test_foreign_files_are_no_checkpoints_of_the_run(run: Path) -> None:
    save(run, 99, "pretrained.pth")
    save(run, 99, "model_new.pth")
    (run / "model_0000099.pth.partial").write_bytes(b"half")
    (run / "last_checkpoint").unlink()
    found = find_last(run)
    assert found is not None
    assert found.iteration == 14


def test_only_a_folder_without_checkpoints_starts_anew(tmp_path: Path) -> None:
    assert find_last(tmp_path / "missing") is None
    save(tmp_path, 5, "pretrained.pth")
    assert find_last(tmp_path) is None
    empty(save(tmp_path, 5))
    with pytest.raises(CheckpointError, match=r"none of its checkpoints can be used.*is empty"):
        find_last(tmp_path)
    name_last(tmp_path, "model_0000006.pth")
    with pytest.raises(CheckpointError, match=r"model_0000006.pth does not exist"):
        find_last(tmp_path)


WHOLE = io.BytesIO()
torch.save(content(3), WHOLE)


@settings(deadline=None, max_examples=50)
@given(position=st.integers(0, len(WHOLE.getvalue()) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    data = bytearray(WHOLE.getvalue())
    data[position] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.pth"
    path.write_bytes(data)
    try:
        assert open_checkpoint(path) is not None
    except CheckpointError:
        return
    found, expected = read_tensors(path), content(3)
    for part in ("model", "student"):
        assert torch.equal(found[part]["w"], expected[part]["w"])
    assert (found["trainer"], found["iteration"]) == (expected["trainer"], 3)


@settings(deadline=None, max_examples=50)
@given(length=st.integers(0, len(WHOLE.getvalue()) - 1))
def test_a_cut_file_is_always_found(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.pth"
    path.write_bytes(WHOLE.getvalue()[:length])
    assert find_damage(path) is not None


@pytest.mark.parametrize("write", [name_last, add_name])
def test_a_failed_write_says_how_the_run_can_continue(
    run: Path, write: Callable[[Path, str], None]
) -> None:
    target = {name_last: run / "last_checkpoint", add_name: run / "model_best.pth"}[write]
    target.unlink(missing_ok=True)
    target.mkdir()
    with pytest.raises(
        CheckpointError,
        match=rf"{target.name} cannot be written.*before it are untouched.*--resume",
    ):
        write(run if write is name_last else run / "model_0000014.pth", target.name)
    assert not list(run.glob("*.partial"))


def test_old_numbers_go_and_everything_else_stays(run: Path) -> None:
    others = ["model_best.pth", "model_final.pth", "model_mine.pth", "notes.partial", "model_x.txt"]
    for name in others:
        (run / name).write_bytes(b"x")
    (run / "model_0000019.pth.partial").write_bytes(b"cut off")
    (run / "last_checkpoint.partial").write_bytes(b"cut off")
    # More digits are a later iteration.
    later = save(run, 10_000_000)
    clear_old(run, kept=1, last=run / "model_0000009.pth")
    kept = {path.name for path in run.iterdir()}
    # What the run has gone back from stays, and takes no place from what is new.
    numbers = {"model_0000009.pth", "model_0000014.pth"}
    assert kept == {*others, "last_checkpoint", *numbers, later.name}
    clear_old(run, kept=1, last=later)
    kept = {path.name for path in run.iterdir()}
    assert kept == {*others, "last_checkpoint", later.name}


def test_a_run_that_has_gone_back_does_not_fall_forward(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Gone back from 14 to 4 and on to 9, which is damaged."""
    name_last(run, "model_0000009.pth")
    (run / "model_0000009.pth").write_bytes(b"cut off")
    found = find_last(run)
    assert found is not None
    assert found.iteration == 4


def test_a_file_of_code_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    replace_by_code(path)
    with pytest.raises(UntrustedFileError, match=r"evil\.pth is not read.*Nothing of it was run"):
        read_tensors(path)
    assert not (tmp_path / "created").exists()
