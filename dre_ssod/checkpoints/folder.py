"""Checkpoint files on disk: named, checked, listed and cleared away.

A run's folder holds ``model_0004999.pth`` and so on, numbered by the iteration they finished,
``model_best.pth`` and ``model_final.pth``, which are further names of numbered ones, and
``last_checkpoint``, which names the newest.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dre_ssod.errors import CheckpointError, FileError, UntrustedFileError
from dre_ssod.files import clear_partial, link_or_copy, open_whole, set_aside

LAST = "last_checkpoint"
BEST = "model_best.pth"
BURN_IN = "model_burn_in.pth"
"""The checkpoint of the end of a burn-in, where SSOD.BURN_IN_KEPT asks for it."""
_OURS = re.compile(r"model_(\d{7,}|best|final|burn_in)\.pth")
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A file from which a run can continue.

    Attributes:
        iteration: the last one that is finished.
    """

    iteration: int
    path: Path


@contextmanager
def telling_what_stays() -> Iterator[None]:
    """Adds to a failed write of a checkpoint's file how the run can continue.

    Raises:
        CheckpointError: in place of a FileError.
    """
    try:
        yield
    except FileError as error:
        raise CheckpointError(
            f"{error} The checkpoints before it are untouched: continue with --resume. "
            "SOLVER.CHECKPOINTS_KEPT sets how many are kept."
        ) from error


def add_name(path: Path, name: str) -> None:
    """Give a checkpoint a further name in its folder, replacing what had it.

    Raises:
        CheckpointError: if it cannot be written.
    """
    with telling_what_stays():
        link_or_copy(path, name)


def name_last(folder: Path, name: str) -> None:
    """Have ``last_checkpoint`` name a file.

    Raises:
        CheckpointError: if it cannot be written.
    """
    with telling_what_stays(), open_whole(folder / LAST) as file:
        file.write(name.encode())


def read_tensors(path: str | Path, mmap: bool = False) -> Any:
    """The content of a ``.pth`` file of tensors and plain containers.

    Args:
        mmap: whether tensors are read only when they are used.

    Raises:
        UntrustedFileError: if it is damaged or holds anything else. Nothing was run.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    # A damaged file may raise nearly anything on its way.
    except Exception as error:
        # PyTorch's own text would advise to load it without the check.
        is_refusal = isinstance(error, pickle.UnpicklingError)
        reason = "" if is_refusal else f" ({str(error).partition(chr(10))[0][:300]})"
        raise UntrustedFileError(
            f"{path} is not read{reason}. A .pth checkpoint may only hold tensors, numbers, texts "
            "and plain containers; it is damaged or would run code. Nothing of it was run."
        ) from error


def look_into(path: Path) -> dict[str, Any]:
    """The entries of a file that PyTorch wrote, whatever its suffix; of another file none.

    Weights are read only when they are used, but for files of PyTorch before 1.6.

    Raises:
        UntrustedFileError: if it is damaged or holds code.
    """
    is_archive = zipfile.is_zipfile(path)
    if not is_archive and not (path.suffix == ".pth" and path.is_file()):
        return {}
    content = read_tensors(path, mmap=is_archive)
    return content if isinstance(content, dict) else {}


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file of this project; None if it is whole.

    Every byte of its content is compared with the checksums that it holds.
    """
    try:
        if path.stat().st_size == 0:
            return "it is empty"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        return f"it cannot be read: {error}"
    except zipfile.BadZipFile as error:
        return f"it is cut off or damaged: {error}"
    return f"its checksum does not fit ({broken})" if broken else None


def open_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint in a file, looked into without reading its weights.

    Returns:
        None if it is sound, but no run can continue from it.

    Raises:
        CheckpointError: if it is damaged.
    """
    damage = find_damage(path)
    if damage is not None:
        raise CheckpointError(f"{path} is damaged: {damage}")
    try:
        content = read_tensors(path, mmap=True)
    except UntrustedFileError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(content, dict) or not {"model", "student", "trainer"} <= content.keys():
        return None
    return Checkpoint(int(content["iteration"]), path)


def find_last(folder: Path) -> Checkpoint | None:
    """The checkpoint from which the run in a folder continues.

    It is the one that ``last_checkpoint`` names. If that one is damaged or missing, or there is no
    such file, it is the newest sound one, and what was wrong is logged: the newest before the named
    one, since those after it are what a run has gone back from.

    Returns:
        None if the folder holds no checkpoint at all.

    Raises:
        CheckpointError: if there are checkpoints, but none is sound.
    """
    named = _named_last(folder)
    troubles: list[str] = []
    if named is not None:
        found = _try_open(named, troubles)
        if found is not None:
            return found
    others = [path for path in our_files(folder) if path != named]
    sound = [found for path in others if (found := _try_open(path, troubles)) is not None]
    for trouble in troubles:
        logger.warning("%s", trouble)
    if sound:
        end = None if named is None else _number(named)
        before = [found for found in sound if end is not None and found.iteration <= end]
        newest = max(before or sound)
        what = f"{LAST} names no usable file" if named else f"there is no file {LAST}"
        logger.warning("%s: %s; continuing from %s", folder, what, newest.path.name)
        return newest
    if troubles:
        raise CheckpointError(
            f"{folder} holds a run, but none of its checkpoints can be used: {' '.join(troubles)} "
            "Bring one back from a copy, or choose another OUTPUT_DIR to start again."
        )
    return None


def _named_last(folder: Path) -> Path | None:
    try:
        name = (folder / LAST).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{folder / LAST} cannot be read: {error}") from error
    # Only a name: a checkpoint lies in the folder of its run.
    return folder / (Path(name.replace("\0", "")).name or "nameless")


def _try_open(path: Path, troubles: list[str]) -> Checkpoint | None:
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist")
        found = open_checkpoint(path)
    # OSError: a name that no file can have, a folder that cannot be looked into.
    except (CheckpointError, OSError) as error:
        troubles.append(f"{error}.")
        return None
    if found is None:
        troubles.append(f"{path} holds no run, only weights.")
    return found


def our_files(folder: Path) -> list[Path]:
    """Checkpoints of a run, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _OURS.fullmatch(path.name))


def clear_old(folder: Path, kept: int, last: Path) -> None:
    """Remove numbered checkpoints up to ``last`` but the newest ``kept``, and cut-off writes.

    Those after it are what a run has gone back from: they stay until it has come as far.
    """
    end = _number(last)
    assert end is not None, "the newest of a run bears a number"
    until = sorted(
        (number, path)
        for path in our_files(folder)
        if (number := _number(path)) is not None and number <= end
    )
    for _, path in until[:-kept]:
        path.unlink(missing_ok=True)
    clear_unfinished(folder)


def _number(path: Path) -> int | None:
    """The iteration that a checkpoint is named by; None of another name."""
    found = _NUMBERED.fullmatch(path.name)
    return None if found is None else int(found[1])


def gone_on(folder: Path, final: Path) -> Checkpoint | None:
    """The checkpoint of a run that ``last_checkpoint`` names, if it is not that of a final one.

    It is newer where the run has gone on since, and older where the run has gone back.
    """
    named = _named_last(folder)
    if named is None or named == final:
        return None
    last, end = (_try_open(path, []) for path in (named, final))
    if last is None or end is None or last.iteration == end.iteration:
        return None
    return last


def set_best_aside(folder: Path, iteration: int) -> bool:
    """Rename a ``model_best.pth`` of iterations that a run has gone back from.

    Args:
        iteration: the last one that the run has finished.

    Returns:
        Whether there was one.
    """
    best = folder / BEST
    found = _try_open(best, []) if best.is_file() else None
    if found is None or found.iteration <= iteration:
        return False
    logger.warning(
        "%s is of iteration %d, and the run has gone back to %d: it is now %s",
        *(best, found.iteration, iteration, set_aside(best).name),
    )
    return True


def clear_unfinished(folder: Path) -> None:
    """Remove what a write of a checkpoint left that was killed."""
    clear_partial(folder, lambda name: name == LAST or _OURS.fullmatch(name))
