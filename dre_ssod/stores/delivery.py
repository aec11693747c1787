"""Finished results, put where their user wants them: on this machine, or into a store.

A program asks for the place before it works. Into a store goes what is whole: it is made in a
temporary folder, and sent when the work is done. What makes a place unfit is a rule, a function
that raises :class:`~dre_ssod.errors.ConfigError`; it is asked before the work, and once more
before anything is sent.
"""

from __future__ import annotations

import functools
import logging
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from dre_ssod.errors import ConfigError, FileError
from dre_ssod.files import PARTIAL, try_to_write
from dre_ssod.stores.objects import StoreError, ask, is_address
from dre_ssod.stores.places import Place, StorePath, is_taken

# What is in "memory" is gone with the program.
_NOT_WRITTEN = frozenset(
    (
        *("http", "https", "data", "git", "github", "gist"),
        *("zip", "tar", "libarchive", "reference", "memory"),
    )
)
# Files that are sent at the same time; a package may hold all of them in memory.
_FILES_AT_ONCE, _BYTES_AT_ONCE = 32, 2**25

Rule = Callable[[Place], object]

logger = logging.getLogger(__name__)


class Written(NamedTuple):
    """A path to write to, and the place where what was written is found afterwards."""

    path: Path
    place: Place

    def path_for(self, place: Place) -> Path:
        """Where to write what is found at ``place``, which is this one or below it."""
        if isinstance(place, Path):
            return place
        assert isinstance(self.place, StorePath)
        return self.path / place.relative_to(self.place)


def new_file(place: Place) -> None:
    """Nothing may be there."""
    if place.exists():
        raise ConfigError(f"{place} exists; choose another name")


def any_file(place: Place) -> None:
    """A file that is there is replaced."""
    if place.is_dir():
        raise ConfigError(f"{place} is a folder; name a file")


def any_folder(place: Place) -> None:
    """Files that are there are replaced, where they have the names of new ones."""
    if place.is_file():
        raise ConfigError(f"{place} is a file; name a folder")


def new_folder(place: Place) -> None:
    """The folder must be empty, or not be there."""
    if is_taken(place):
        raise ConfigError(f"{place} exists and is not empty; choose another folder")


def folder_without(*names: str) -> Rule:
    """The folder may hold anything but these."""

    def rule(place: Place) -> None:
        any_folder(place)
        for path in (place / name for name in names):
            if path.exists():
                raise ConfigError(f"{path} exists; choose another folder, or remove it")

    return rule


@contextmanager
def delivered_file(output: Path | str, rule: Rule = new_file) -> Iterator[Written]:
    """Where to write a file, which is put at ``output`` when the block ends.

    Args:
        output: a path of this machine, which is written to directly; a text is an address. If the
            block raises, nothing goes there.
        rule: what may not be there.

    Raises:
        ConfigError: if the rule is broken, or nothing is ever written to such an address.
        StoreError: if the store cannot be written to. The result is kept then, and named.
        FileError: if nothing can be written there, or there is no place on this machine to make it
            in.
    """
    with _delivered(output, rule, is_folder=False) as written:
        yield written


@contextmanager
def delivered_folder(output: Path | str, rule: Rule = new_folder) -> Iterator[Written]:
    """Where to make or fill a folder; the rest as of :func:`delivered_file`.

    Its files are sent in the order in which they were written, the last one by itself. So what
    names others is there after them.
    """
    with _delivered(output, rule, is_folder=True) as written:
        yield written


@contextmanager
def _delivered(output: Path | str, rule: Rule, is_folder: bool) -> Iterator[Written]:
    if isinstance(output, Path):
        rule(output)
        try_to_write(output, is_folder)
        yield Written(output, output)
        return
    place = StorePath.parse(output)
    above = place if is_folder else place.parent
    is_read = place.after or place.before.removesuffix("://") in _NOT_WRITTEN
    if is_read or not is_address(output) or not above.name:
        raise ConfigError(
            f"{output}: nothing is written there. Name a path of this machine, or a bucket and "
            "what the result is called in it, s3://BUCKET/NAME, gs:// or az:// or another store "
            "that fsspec writes to; web servers and archives are only read"
        )
    rule(place)
    _try_to_write(above)
    folder = Path(tempfile.mkdtemp(prefix="dre_ssod_"))
    path = folder / place.name
    try:
        yield Written(path, place)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, FileError) and str(folder) in str(error):
            raise FileError(
                f"{error} It is made there before it goes to {place}; TMPDIR chooses another disk."
            ) from error
        raise
    _send(path, place, rule)
    shutil.rmtree(folder, ignore_errors=True)


def _try_to_write(folder: StorePath) -> None:
    """Put an empty object there and remove it, so that what is missing shows before the work."""
    trial = folder / f"{secrets.token_hex(4)}{PARTIAL}"

    def put(system: Any, inner: str) -> None:
        with tempfile.NamedTemporaryFile() as empty:
            try:
                system.put_file(empty.name, inner)
            except NotImplementedError as error:
                raise StoreError(f"{folder}: fsspec does not write to this store") from error

    _write(trial, put)
    try:
        ask(str(trial), lambda system, inner: system.rm_file(inner))
    except (StoreError, OSError) as error:
        logger.warning("%s was written as a trial and stays, an empty object: %s", trial, error)


def _write(place: StorePath, question: Callable[[Any, str], None]) -> None:
    """:func:`.objects.ask`, of what writes at a place."""
    try:
        ask(str(place), question)
    except FileNotFoundError as error:
        raise StoreError(
            f"{place.top}: there is no such bucket; make it, or correct the name"
        ) from error


def _send(path: Path, place: StorePath, rule: Rule) -> None:
    """Send a file, or all files of a folder."""
    files = _in_order(path)
    sent = 0
    try:
        # What others have written meanwhile.
        ask(str(place), lambda system, _: system.invalidate_cache())
        rule(place)
        with tqdm(total=len(files), desc="sent", unit="file", disable=None) as bar:
            for batch in _batches(files):
                _write(place, functools.partial(_put, path, batch))
                sent += len(batch)
                bar.update(len(batch))
    except (Exception, KeyboardInterrupt) as error:
        said = str(error).removeprefix(f"{place}: ").rstrip(".") or "interrupted"
        raise StoreError(
            f"{place}: {sent} of {len(files)} files were sent, then: {said}. All of them are kept "
            f"in {path}: copy it to {place} with the store's own program, such as aws s3 cp, "
            "gcloud storage cp or azcopy, and remove it then"
        ) from error


def _put(path: Path, batch: Sequence[Path], system: Any, inner: str) -> None:
    """Put ``path``, or files of that folder, at the path ``inner`` of a store."""
    names = ["" if file == path else f"/{file.relative_to(path).as_posix()}" for file in batch]
    system.put([str(file) for file in batch], [f"{inner}{name}" for name in names])


def _in_order(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(files, key=lambda file: (file.stat().st_mtime_ns, file))


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Some files at a time, and the last by itself."""
    batch: list[Path] = []
    size = 0
    for file in files[:-1]:
        more = file.stat().st_size
        if batch and (len(batch) == _FILES_AT_ONCE or size + more > _BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += more
    yield from filter(None, (batch, list(files[-1:])))
