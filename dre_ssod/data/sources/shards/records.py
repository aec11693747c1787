"""The images of shards as a sequence of records, each made when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from dre_ssod.data.records import identify_files
from dre_ssod.data.sources.shards.index import Index
from dre_ssod.data.sources.shards.patterns import Shard
from dre_ssod.data.sources.shards.scanning import BLOCK
from dre_ssod.stores import Piece, is_piece

Numbers = npt.NDArray[np.int64]


class ShardRecords(Sequence[dict[str, Any]]):
    """Unlabeled images of shards, but for some; a record costs memory only while it is used.

    Loading processes share the index, which is mapped into memory.
    """

    def __init__(
        self, index: Index, shards: Sequence[Shard], left_out: Sequence[int] | Numbers = ()
    ) -> None:
        """
        Args:
            index: of the shards.
            left_out: numbers of images that do not count, rising.
        """
        self._index = index
        self._files = [str(shard.place) for shard in shards]
        self._shards = shards
        self._left_out = np.asarray(left_out, np.int64)
        # How many images that count come before each.
        self._before = self._left_out - np.arange(len(self._left_out))

    def __len__(self) -> int:
        return len(self._index) - len(self._left_out)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """A record with ``file_name`` and ``image_id``, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        shard, place = self._locate(index)
        (block, size, _, _), name = self._index.image(shard, place)
        return {
            "file_name": str(Piece(self._files[shard], block * BLOCK, size, name)),
            "image_id": f"{self._shards[shard].name}/{name}",
        }

    def label(self, index: int) -> Piece | None:
        """Where the JSON beside an image lies, if there is any."""
        shard, place = self._locate(index)
        (_, _, block, size), name = self._index.image(shard, place)
        label = Piece(self._files[shard], block * BLOCK, size, f"{os.path.splitext(name)[0]}.json")
        return label if block else None

    def _locate(self, index: int) -> tuple[int, int]:
        """The shard of an image that counts, and its number there."""
        position = range(len(self))[index]
        skipped = int(np.searchsorted(self._before, position, side="right"))
        return self._index.locate(position + skipped)

    @property
    def lost(self) -> float:
        """Share of the shards that cannot be read, by their bytes."""
        return sum(entry.lost for entry in self._index.entries) / len(self._index.entries)

    def digests(self) -> list[str]:
        """Of each shard, what tells its images from others: by their names, places and sizes."""
        found = [entry.digest for entry in self._index.entries]
        for shard in {self._index.locate(number)[0] for number in self._left_out.tolist()}:
            places = self._left_out - self._index.starts[shard]
            own = places[(places >= 0) & (places < self._index.entries[shard].images)]
            rest = f"{found[shard]} without {own.tolist()}"
            found[shard] = sha256(rest.encode()).hexdigest()
        return found

    def without(self, files: Iterable[str]) -> ShardRecords:
        """All but the images of these names of files; only their shards are looked into."""
        identify = identify_files()
        by_file = {identify(file): number for number, file in enumerate(self._files)}
        gone = set(self._left_out.tolist())
        for piece in (Piece.parse(file) for file in files if is_piece(file)):
            shard = by_file.get(identify(piece.file))
            if shard is None:
                continue
            blocks = self._index.columns(shard)[0]
            place = int(np.searchsorted(blocks, piece.start // BLOCK))
            if place < len(blocks) and blocks[place] * BLOCK == piece.start:
                gone.add(self._index.starts[shard] + place)
        if len(gone) == len(self._left_out):
            return self
        return ShardRecords(self._index, self._shards, sorted(gone))
