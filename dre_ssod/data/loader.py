"""The paired loader: two independent endless streams, one batch of both per step.

Which image stands at which position of a stream, and how it is augmented, is a function of
(seed, stream, position) alone. So the order does not depend on the number of workers, a resumed run
starts at its position at once, and no image is lost or repeated within an epoch of its stream. An
image that cannot be read is replaced by one that (seed, stream, position, attempt) draws, so all of
this stays true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetFromList
from torch.utils.data import DataLoader, Dataset, Sampler

from dre_ssod.data.images import ImageError
from dre_ssod.data.orders import draw_order
from dre_ssod.data.records import Joined
from dre_ssod.structures import ImageFailure, TrainingBatch
from dre_ssod.workers import tend

LABELED, UNLABELED = 0, 1
MAX_ATTEMPTS = 10
"""Images that are tried for one place in a batch."""

Mapper = Callable[[dict[str, Any], np.random.Generator], Any]


@dataclass(frozen=True)
class SampleKey:
    """One sample to load: which stream, its position there, and the image at that position."""

    stream: int
    position: int
    index: int


class ShuffledStream:
    """An endless shuffled sequence of the indices of ``size`` images, with random access.

    Every ``size`` consecutive positions from a multiple of ``size`` on are a permutation.
    """

    def __init__(self, size: int, seed: int, stream: int) -> None:
        self._size = size
        self._seed = seed
        self._stream = stream
        self._epoch = -1
        self._order: Callable[[int], int]

    def key(self, position: int) -> SampleKey:
        """The sample at ``position``, counted from 0."""
        epoch, offset = divmod(position, self._size)
        if epoch != self._epoch:
            self._order = draw_order(self._size, [self._seed, self._stream, epoch])
            self._epoch = epoch
        return SampleKey(self._stream, position, self._order(offset))


@dataclass(frozen=True)
class BatchPlan:
    """How many images of each kind one process draws for one forward pass.

    Attributes:
        labeled, unlabeled: images per process and forward pass.
        burn_in_batches: forward passes of the run that draw labeled images only.
        rank, world_size: of this process; processes draw disjoint positions.
    """

    labeled: int
    unlabeled: int
    burn_in_batches: int = 0
    rank: int = 0
    world_size: int = 1


class PairedBatchSampler(Sampler[list[SampleKey]]):
    """Yields, forever, the keys of one batch: labeled images, then unlabeled ones."""

    def __init__(
        self, num_labeled: int, num_unlabeled: int, plan: BatchPlan, seed: int, start: int
    ) -> None:
        """
        Args:
            num_labeled, num_unlabeled: images in each pool.
            plan: batch composition.
            seed: of both streams.
            start: number of forward passes that the run has behind it.
        """
        self._plan = plan
        self._start = start
        self._labeled = ShuffledStream(num_labeled, seed, LABELED)
        self._unlabeled = ShuffledStream(num_unlabeled, seed, UNLABELED)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        batch = self._start
        while True:
            keys = self._draw(self._labeled, batch, self._plan.labeled)
            paired = batch - self._plan.burn_in_batches
            if paired >= 0:
                keys += self._draw(self._unlabeled, paired, self._plan.unlabeled)
            yield keys
            batch += 1

    def _draw(self, stream: ShuffledStream, batch: int, count: int) -> list[SampleKey]:
        first = (batch * self._plan.world_size + self._plan.rank) * count
        return [stream.key(position) for position in range(first, first + count)]


@dataclass(frozen=True)
class Loaded:
    """What was loaded for one key.

    Attributes:
        stream: of the key.
        sample: what the mapper made; None if no image that was tried can be read.
        failures: images that were tried before.
    """

    stream: int
    sample: Any
    failures: tuple[ImageFailure, ...] = ()


class PairedDataset(Dataset[Any]):
    """Loads and augments the sample that a key names."""

    def __init__(
        self,
        labeled: Sequence[dict[str, Any]],
        unlabeled: Sequence[dict[str, Any]],
        labeled_mapper: Mapper,
        unlabeled_mapper: Mapper,
        seed: int,
    ) -> None:
        self._pools = {
            stream: _shared(pool)
            for stream, pool in ((LABELED, labeled), (UNLABELED, unlabeled))
            if pool
        }
        self._mappers = {LABELED: labeled_mapper, UNLABELED: unlabeled_mapper}
        self._seed = seed

    def __getitem__(self, key: SampleKey) -> Loaded:
        """Load the image of a key, or up to ``MAX_ATTEMPTS - 1`` others if it cannot be read.

        Errors that are not about the image are raised.
        """
        pool, mapper = self._pools[key.stream], self._mappers[key.stream]
        rng = np.random.default_rng([self._seed, key.stream, key.position])
        index = key.index
        failures: list[ImageFailure] = []
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return Loaded(key.stream, mapper(pool[index], rng), tuple(failures))
            except ImageError as error:
                # Raised later, by the process that trains: through a worker it would lose its type.
                replaced = attempt < MAX_ATTEMPTS
                failures.append(ImageFailure(str(error.file_name), str(error), replaced))
            rng = np.random.default_rng([self._seed, key.stream, key.position, attempt])
            index = int(rng.integers(len(pool)))
        return Loaded(key.stream, None, tuple(failures))


def _shared(pool: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Records in a form that loading processes share."""
    if isinstance(pool, Joined):
        return Joined([_shared(part) for part in pool.parts])
    # Detectron2's list keeps one serialized copy; it cannot be empty.
    return DatasetFromList(pool, copy=False) if isinstance(pool, list) else pool


def collate(loaded: list[Loaded]) -> TrainingBatch:
    """Sort the samples of a batch into its two parts, and gather the failures."""
    found = [item for item in loaded if item.sample is not None]
    return TrainingBatch(
        labeled=[item.sample for item in found if item.stream == LABELED],
        unlabeled=[item.sample for item in found if item.stream == UNLABELED],
        failures=tuple(failure for item in loaded for failure in item.failures),
    )


def build_paired_loader(
    labeled: Sequence[dict[str, Any]],
    unlabeled: Sequence[dict[str, Any]],
    labeled_mapper: Mapper,
    unlabeled_mapper: Mapper,
    plan: BatchPlan,
    *,
    seed: int,
    start: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[TrainingBatch]:
    """An endless loader of :class:`TrainingBatch`.

    Args:
        labeled, unlabeled: dataset dicts.
        labeled_mapper, unlabeled_mapper: from a dict and a random generator to a sample.
        plan: batch composition.
        seed: the same on every process.
        start: forward passes that the run has behind it.
        num_workers: loading processes; 0 loads in the calling one.
        pin_memory: whether batches are in pinned memory, which a GPU copies from on its own.

    Raises:
        ValueError: if a pool that the plan draws from is empty.
    """
    for name, pool, count in (
        ("labeled", labeled, plan.labeled),
        ("unlabeled", unlabeled, plan.unlabeled),
    ):
        if count > 0 and not pool:
            raise ValueError(f"the plan draws {count} {name} images per batch, but there are none")
    loader: DataLoader[TrainingBatch] = DataLoader(
        PairedDataset(labeled, unlabeled, labeled_mapper, unlabeled_mapper, seed),
        batch_sampler=PairedBatchSampler(len(labeled), len(unlabeled), plan, seed, start),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )
    return tend(loader)
