"""How all picture files are opened, wherever they lie."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from detectron2.utils.file_io import PathManager

from dre_ssod.errors import SourceError
from dre_ssod.stores import Piece, is_address, is_piece, open_copy

LARGEST_FILE = 2**31
"""Bytes of a picture file; the largest that is decoded, in 16-bit colors, has half of them."""
_BLOCK = 2**20


class ImageError(SourceError):
    """An image that cannot be used; the message begins with its file name.

    Attributes:
        file_name: of the image; empty if PyTorch rebuilt the error of a loading process, of which
            it passes on the message alone.
    """

    def __init__(self, message: str, file_name: str = "") -> None:
        super().__init__(message)
        self.file_name = file_name


@contextmanager
def open_picture(file_name: str) -> Iterator[IO[bytes]]:
    """The bytes of a picture file: how all pictures are opened.

    Raises:
        ImageError: if it is no regular file, as a pipe or a device is none: opening one may wait
            for ever, and reading it may never end; if it is larger than ``LARGEST_FILE``; or if it
            is in a tar file that ends before it does.
        OSError: if it cannot be opened.
        StoreError: if it is in a store that cannot be asked.
    """
    if is_piece(file_name):
        with _open_piece(file_name) as file:
            yield file
        return
    if is_address(file_name):
        with open_copy(file_name) as file:
            _check_length(file_name, os.fstat(file.fileno()).st_size)
            yield file
        return
    path = PathManager.get_local_path(file_name)
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{file_name}: is a folder, no image", file_name)
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(
            f"{file_name}: is no regular file, but a pipe, a socket or a device; remove it",
            file_name,
        )
    _check_length(file_name, found.st_size)
    with open(path, "rb") as file:
        yield file


def _open_piece(file_name: str) -> IO[bytes]:
    piece = Piece.parse(file_name)
    _check_length(file_name, piece.size)
    try:
        return piece.open()
    except EOFError as error:
        raise ImageError(f"{file_name}: is cut off: {error}; pack it again", file_name) from error


def _check_length(file_name: str, length: int) -> None:
    if length > LARGEST_FILE:
        raise ImageError(
            f"{file_name}: has {length / 2**30:.1f} GiB, more than any image that can be decoded; "
            "remove it",
            file_name,
        )


def is_unreachable(error: ImageError) -> bool:
    """Whether an image could not be got at, which says nothing of what its file holds.

    To be asked in the process that raised the error. Decoders keep some of what the system says to
    themselves, so a file whose content seems to be at fault is read once more to its end.

    Raises:
        StoreError: as of :func:`open_picture`.
    """
    if is_of_system(error.__cause__):
        return True
    try:
        with open_picture(error.file_name) as file:
            while file.read(_BLOCK):
                pass
    except ImageError:
        return False
    except OSError as failure:
        return is_of_system(failure)
    return False


def is_of_system(error: BaseException | None) -> bool:
    """Whether the system has refused a file, as against a decoder its content."""
    # What Pillow says of damaged content is an OSError without a number; a damaged file may also
    # point to before its start, which is an invalid argument.
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
