"""Questions to a store, asked again where it does not answer; errors say what is missing."""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from dre_ssod.errors import UserError

TRIES = 4
"""Times that a question is asked; the stores' own packages ask a few times more each time."""
PAUSE = 0.5
"""Seconds before the second try; twice as many before each further one."""
PROTOCOLS = frozenset(known_implementations) - {"file", "local"}
CHAIN = "::"
"""What stands before the address of an archive in that of something inside it."""

_PROTOCOL = re.compile(r"([A-Za-z0-9+.-]+)://")
# What tells two contents of an object apart, in the words of different stores.
_MARKS = ("size", "ETag", "etag", "md5Hash", "content_md5", "CRC", "mtime", "LastModified")
# The same of web servers, of memory, of hf://, github://, git://, webhdfs://, ftp:// and jupyter://.
_MORE_MARKS = (
    *("Last-Modified", "Content-MD5", "Digest", "created", "blob_id", "xet_hash", "sha", "hex"),
    *("modificationTime", "modify", "last_modified"),
)
# Of the disk of this machine: the store is not at fault.
_OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NO_CREDENTIALS = ("Credential", "Authentication", "RefreshError", "Forbidden")

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class StoreError(UserError):
    """A store that cannot be asked: a package or credentials are missing, or it does not answer."""


def is_address(text: str) -> bool:
    """Whether a text is the address of something in a store, on a web server or in an archive."""
    found = _PROTOCOL.match(text)
    return found is not None and found[1] in PROTOCOLS


def ask(address: str, question: Callable[[AbstractFileSystem, str], Answer]) -> Answer:
    """What ``question(file_system, path)`` gives, for the fsspec file system of an address.

    Raises:
        FileNotFoundError: if there is no such object.
        StoreError: if a package is missing, access is refused, or no try gives an answer.
    """
    said = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return question(*url_to_fs(address))
        except (IsADirectoryError, NotADirectoryError, UserError, TypeError, AttributeError):
            raise
        except ImportError as error:
            raise StoreError(
                f"{address}: a package is missing: {error}. pip install 'dre_ssod[stores]' brings "
                "s3fs for s3:// and aiohttp for https://; gs:// needs gcsfs, az:// needs adlfs"
            ) from error
        except Exception as error:  # The stores' packages raise errors of many types.
            cause = _behind(error)
            if isinstance(cause, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, "there is no such object", address) from cause
            if isinstance(cause, OSError) and cause.errno in _OUR_DISK:
                raise
            said = f"{type(cause).__name__}: {cause}".removesuffix(": ")
            if _is_refusal(cause):
                raise StoreError(
                    f"{address}: access is refused, or there is no such object ({said}). Give "
                    "the credentials as the store's own programs take them (s3://: AWS_PROFILE, "
                    "or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; gs://: "
                    "GOOGLE_APPLICATION_CREDENTIALS; az://: AZURE_STORAGE_CONNECTION_STRING), or, "
                    "for a public bucket of S3, FSSPEC_S3_ANON=true"
                ) from cause
            logger.debug("%s: try %d of %d: %s", address, attempt + 1, TRIES, said)
    raise StoreError(
        f"{address}: no answer in {TRIES} tries, the last: {said}. Check the network and the "
        "address of the store (AWS_ENDPOINT_URL for one that is not Amazon's), and start again"
    )


def _behind(error: Exception) -> Exception:
    """What went wrong: of a web server, fsspec calls anything a file that is not there."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    # No connection, or an answer that says something else.
    is_other = isinstance(cause, OSError) or getattr(cause, "status", 404) not in (404, 410)
    return cause if isinstance(cause, Exception) and is_other else error


def _is_refusal(error: Exception) -> bool:
    # fsspec's own, those of the stores' packages by name, and the status of web servers.
    names = [kind.__name__ for kind in type(error).__mro__]
    return (
        isinstance(error, PermissionError)
        or any(sign in name for sign in _NO_CREDENTIALS for name in names)
        or getattr(error, "status", None) in (401, 403)
    )


def describe(address: str) -> dict[str, Any]:
    """What a store says of an object: ``size``, ``type`` and more, by the store.

    Raises:
        FileNotFoundError: if there is no such object, nor a folder of that name.
        StoreError: as of :func:`ask`.
    """
    found: dict[str, Any] = ask(address, lambda system, path: system.info(path))
    return found


def read_range(address: str, start: int, end: int) -> bytes:
    """The bytes of an object from ``start`` to before ``end``, or to its end.

    Raises:
        FileNotFoundError: if there is no such object.
        StoreError: as of :func:`ask`.
    """
    found: bytes = ask(address, lambda system, path: system.cat_file(path, start=start, end=end))
    return found


def identity(description: dict[str, Any]) -> str:
    """A name for the content of an object, as far as its store tells contents apart."""
    marks = [str(description.get(mark)) for mark in _MARKS]
    marks += [str(description[mark]) for mark in _MORE_MARKS if mark in description]
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]


def has_identity(description: dict[str, Any]) -> bool:
    """Whether a store says more of an object's content than its size: a date or a checksum."""
    return any(description.get(mark) for mark in (*_MARKS, *_MORE_MARKS) if mark != "size")
