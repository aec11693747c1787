"""The shards that a pattern names, and what tells their contents apart."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dre_ssod.data.sources.folder import is_hidden
from dre_ssod.data.sources.uri import DatasetURI, find_file, find_folder
from dre_ssod.errors import SourceError
from dre_ssod.stores import Cache, Place, StorePath, describe, is_address, place_of

ASKED_AT_ONCE = 16
"""Questions to a store that wait for their answers at a time."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_WILD = re.compile(r"[*?\[]")
_MOST = 10**6


@dataclass(frozen=True)
class Shard:
    """A tar file.

    Attributes:
        place: where it is.
        name: its path below the folder that all shards of the set have in common.
        size: in bytes.
        identity: changes with its content.
    """

    place: Place
    name: str
    size: int
    identity: str


def find_shards(uri: DatasetURI) -> list[Place]:
    """The places that the pattern of a URI names, in order; ``{000..127}``, ``*``, ``?``, ``[]``.

    Raises:
        SourceError: if there are none, one of a range is missing, or a wildcard is in a folder.
        StoreError: if a store cannot be asked.
    """
    found: list[Place] = []
    for path in _expand(uri):
        if not _WILD.search(path):
            # Whether it is in its store comes out later, for all of them at once.
            found.append(place_of(path) if is_address(path) else find_file(path, uri))
            continue
        folder, _, pattern = path.rpartition("/")
        if _WILD.search(folder):
            raise SourceError(f"{uri.text}: wildcards may stand in the last part of a path alone")
        place = find_folder(folder or ("/" if path.startswith("/") else "."), uri)
        found += sorted((p for p in place.glob(pattern) if not is_hidden(p.name)), key=str)
    if not found:
        raise SourceError(f"{uri.text}: no file has a name of this pattern; write {uri.form}")
    if len(set(found)) < len(found):
        raise SourceError(f"{uri.text}: names a shard twice")
    return found


def look_at(name: str, places: Sequence[Place]) -> list[Shard]:
    """Size and identity of the shards as they are now; from then on the cache knows these, too.

    Raises:
        SourceError: naming the first that is not there.
        StoreError: if a store cannot be asked.
        FileError: if the cache cannot be written.
    """
    root = root_of(places)
    if isinstance(places[0], StorePath):
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            states = list(pool.map(_state, places))
    else:
        states = [_state(place) for place in places]
    shards = []
    for place, state in zip(places, states, strict=True):
        if state is None:
            raise SourceError(f"{name}: there is no file {place}")
        shards.append(Shard(place, str(place)[len(root) :].lstrip("/"), *state))
    return shards


def root_of(places: Sequence[Place]) -> str:
    """The lowest folder that holds all shards."""
    folders = {str(place.parent) for place in places}
    return os.path.commonpath(list(folders)) if len(folders) > 1 else folders.pop()


def _state(place: Place) -> tuple[int, str] | None:
    try:
        if isinstance(place, StorePath):
            found = describe(str(place))
            if found["type"] != "file":
                return None
            # What was read of a shard that has changed since is read again.
            return int(found["size"]), Cache.from_environment().note(str(place), found)
        stat = place.stat()
        return (stat.st_size, f"{stat.st_mtime_ns}") if place.is_file() else None
    except FileNotFoundError:
        return None


def _expand(uri: DatasetURI) -> list[str]:
    """Paths with each range replaced by its numbers, as wide as its first one is written."""
    pieces = _RANGE.split(uri.path)
    choices = []
    for low, high in zip(pieces[1::3], pieces[2::3], strict=True):
        numbers = range(int(low), int(high) + 1)
        if not 0 < len(numbers) <= _MOST:
            raise SourceError(f"{uri.text}: {{{low}..{high}}} must rise, by {_MOST:,} at most")
        choices.append([f"{number:0{len(low)}}" for number in numbers])
    if "{" in "".join(pieces[::3]):
        raise SourceError(f"{uri.text}: of braces only ranges of numbers are read: {{000..127}}")
    return [
        "".join(itertools.chain.from_iterable(zip(pieces[::3], (*chosen, ""), strict=True)))
        for chosen in itertools.product(*choices)
    ]
