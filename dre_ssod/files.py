"""Files under their final names: each is whole, or as it was before, whatever stops the writing."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dre_ssod.errors import FileError

PARTIAL = ".partial"
"""What a file's name ends with while it is being written."""
_PARTIAL = re.compile(rf"(\.[0-9a-f]{{8}})?{re.escape(PARTIAL)}$")

logger = logging.getLogger(__name__)


@contextmanager
def open_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which replaces ``path`` when the block ends and survives a crash from then.

    If the block raises, ``path`` is as before.

    Raises:
        FileError: if the file cannot be written.
    """
    # Relative, "." has no name.
    path = path.absolute()
    # Of two processes that write the same file, each has its own.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    # torch.save raises RuntimeError where the disk is full.
    except (OSError, RuntimeError) as error:
        cause = _failed_write(error, partial)
        if cause is None:
            raise
        raise FileError(_describe(path, cause)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def open_whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` when the block ends; if it raises, nothing is left.

    Args:
        path: must not exist, or be an empty folder. The working folder stays the one that it is, so
            that the shell that is in it sees what it gets: that is moved there at the end.

    Raises:
        FileError: if the folder, or something in it, cannot be written.
    """
    # Relative, "." has no name.
    path = path.absolute()
    is_here = path.exists() and path.samefile(os.curdir)
    name = f"{path.name}.{secrets.token_hex(4)}{PARTIAL}"
    partial = path / name if is_here else path.with_name(name)
    try:
        partial.mkdir(parents=True)
        yield partial
        if is_here:
            _move_up(partial)
        else:
            partial.rename(path)
    except OSError as error:
        # A copy that does not fit is reported with the name of the file that was to be copied.
        ours = str(error.filename or partial).startswith(str(partial))
        if not ours and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            raise
        raise FileError(_describe(path, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def naming_failures(path: Path) -> Iterator[None]:
    """Names the file or folder that the block writes to where the system names no other.

    Raises:
        FileError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(path)):
            raise
        raise FileError(_describe(path, error)) from error


def try_to_write(path: Path, is_folder: bool = False) -> None:
    """Make an empty file where a file or a folder is going to be, and remove it.

    It is made in the lowest folder that is there already: no folder is made.

    Raises:
        FileError: if it cannot be written.
    """
    place = path.absolute() / "trial" if is_folder else path.absolute()
    try:
        while not place.parent.exists():
            place = place.parent
        trial = place.with_name(f"{place.name}.{secrets.token_hex(4)}{PARTIAL}")
        trial.open("xb").close()
        trial.unlink()
    except OSError as error:
        raise FileError(_describe(path, error)) from error


def clear_partial(
    folder: Path, is_meant: Callable[[str], object], older_than: float = -math.inf
) -> None:
    """Remove what killed writes left in a folder.

    Args:
        is_meant: tells for the name of a file whether its rests go.
        older_than: seconds since the last byte was written, more than any file takes that is being
            written; without, nobody else may write to the folder.
    """
    for path in folder.glob(f"*{PARTIAL}"):
        with contextlib.suppress(FileNotFoundError):
            if is_meant(final_name(path)) and time.time() - path.stat().st_mtime > older_than:
                path.unlink()


def final_name(path: Path) -> str:
    """The name that a file has or, where it is what a killed write left, was to get."""
    return _PARTIAL.sub("", path.name)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, and the folders above it where there are none.

    Raises:
        FileError: if it cannot be written.
    """
    with naming_failures(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(path) as file:
        # File names, which may be in the text, can hold bytes that are no UTF-8.
        file.write(text.encode(errors="surrogateescape"))


def link_or_copy(path: Path, name: str) -> None:
    """Give a file a further name in its folder, replacing what had it; takes no space if it can.

    Raises:
        FileError: if it cannot be written.
    """
    target = path.with_name(name)
    if target.exists() and target.samefile(path):
        return
    partial = path.with_name(name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)
        os.link(path, partial)
        partial.replace(target)
    except OSError:
        # File systems without hard links.
        partial.unlink(missing_ok=True)
        with path.open("rb") as source, open_whole(target) as file:
            shutil.copyfileobj(source, file)


def set_aside(path: Path) -> Path:
    """Rename a file to the first free name of name_1, name_2 ...; returns the new path."""
    number = 1
    while (other := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists():
        number += 1
    path.rename(other)
    return other


def _move_up(folder: Path) -> None:
    """Move what a folder holds into the one that it is in, which must hold nothing else.

    Raises:
        OSError: if that holds anything else, or a file cannot be moved.
    """
    if any(path != folder for path in folder.parent.iterdir()):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))
    for path in folder.iterdir():
        path.rename(folder.parent / path.name)


def _sync_folder(folder: Path) -> None:
    """Have the new name of a file survive a crash of the machine."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        # Some network file systems know no such thing, and some folders may not be read.
        logger.debug("%s cannot be synchronized", folder)


def _failed_write(error: BaseException | None, partial: Path) -> OSError | None:
    """The failure to write that is behind an error; None if it is about something else."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    if error is None or error.filename not in (None, str(partial)):
        return None
    return error


def _describe(path: Path, cause: OSError) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free there"
    except OSError:
        free = "the folder cannot be looked into"
    reason = cause.strerror or str(cause)
    return (
        f"{path} cannot be written: {reason} ({free}). Free some space, or choose a folder that "
        "you may write to."
    )
