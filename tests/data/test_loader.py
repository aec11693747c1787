from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dre_ssod.config.keys import get_cfg
from dre_ssod.data.images import ImageError
from dre_ssod.data.loader import (
    LABELED,
    MAX_ATTEMPTS,
    UNLABELED,
    BatchPlan,
    PairedBatchSampler,
    SampleKey,
    ShuffledStream,
    build_paired_loader,
)
from dre_ssod.data.mappers import LabeledMapper, UnlabeledMapper
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.errors import SourceError
from dre_ssod.structures import ImageFailure, TrainingBatch, UnlabeledSample

Batch = list[tuple[str, float]]

SIZES = st.integers(1, 23)


def keys_of(
    plan: BatchPlan, labeled: int, unlabeled: int, batches: int, seed: int = 5, start: int = 0
) -> list[list[SampleKey]]:
    sampler = PairedBatchSampler(labeled, unlabeled, plan, seed, start)
    return list(itertools.islice(sampler, batches))


def indices(batches: list[list[SampleKey]], stream: int) -> list[int]:
    return [key.index for batch in batches for key in batch if key.stream == stream]


def draw(record: dict[str, Any], rng: np.random.Generator) -> tuple[str, float]:
    """A mapper whose sample shows the image it came from and the randomness it was given."""
    return record["file_name"], float(rng.random())


def records(prefix: str, count: int) -> list[dict[str, Any]]:
    return [{"file_name": f"{prefix}{number}"} for number in range(count)]


def load(
    plan: BatchPlan,
    batches: int,
    *,
    labeled: int = 5,
    unlabeled: int = 7,
    seed: int = 3,
    start: int = 0,
    num_workers: int = 0,
) -> list[tuple[Batch, Batch]]:
    loader = build_paired_loader(
        records("l", labeled),
        records("u", unlabeled),
        draw,
        draw,
        plan,
        seed=seed,
        start=start,
        num_workers=num_workers,
    )
    found: list[Any] = list(itertools.islice(loader, batches))
    return [(batch.labeled, batch.unlabeled) for batch in found]


@given(
    labeled=st.integers(1, 4),
    unlabeled=st.integers(0, 6),
    pools=st.tuples(SIZES, SIZES),
    world_size=st.integers(1, 3),
)
def test_every_batch_has_the_ratio(
    labeled: int, unlabeled: int, pools: tuple[int, int], world_size: int
) -> None:
    plan = BatchPlan(labeled, unlabeled, rank=world_size - 1, world_size=world_size)
    for batch in keys_of(plan, *pools, batches=12):
        streams = [key.stream for key in batch]
        assert streams == [LABELED] * labeled + [UNLABELED] * unlabeled


@given(
    counts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pools=st.tuples(SIZES, SIZES),
    world_size=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_each_epoch_of_each_stream_is_a_permutation_shared_by_all_processes(
    counts: tuple[int, int], pools: tuple[int, int], world_size: int, seed: int
) -> None:
    plan = BatchPlan(*counts, world_size=world_size)
    batches = 30
    ranks = [
        keys_of(dataclasses.replace(plan, rank=rank), *pools, batches, seed)
        for rank in range(world_size)
    ]
    alone = keys_of(
        BatchPlan(counts[0] * world_size, counts[1] * world_size), *pools, batches, seed
    )
    for stream, size in ((LABELED, pools[0]), (UNLABELED, pools[1])):
        together = [
            key
            for step in zip(*ranks, strict=True)
            for batch in step
            for key in batch
            if key.stream == stream
        ]
        # The processes share out what one process would draw, in its order.
        assert together == [key for batch in alone for key in batch if key.stream == stream]
        assert [key.position for key in together] == list(range(len(together)))
        for epoch in range(len(together) // size):
            order = [key.index for key in together[epoch * size : (epoch + 1) * size]]
            assert sorted(order) == list(range(size))


def test_epochs_and_seeds_have_different_orders() -> None:
    first = ShuffledStream(50, seed=1, stream=LABELED)
    other_seed = ShuffledStream(50, seed=2, stream=LABELED)
    orders = [[first.key(epoch * 50 + n).index for n in range(50)] for epoch in range(3)]
    orders.append([other_seed.key(n).index for n in range(50)])
    assert len(set(map(tuple, orders))) == 4


@given(positions=st.lists(st.integers(0, 10**12), min_size=1, max_size=20), size=SIZES)
def test_a_stream_has_random_access(positions: list[int], size: int) -> None:
    stream = ShuffledStream(size, seed=4, stream=UNLABELED)
    visited = [stream.key(position) for position in positions]
    assert visited == [ShuffledStream(size, 4, UNLABELED).key(position) for position in positions]


def test_the_streams_are_independent() -> None:
    """Two pools of one size are shuffled differently, and neither looks at the other's size."""
    plan = BatchPlan(2, 2)
    same_size = keys_of(plan, 40, 40, 20)
    assert indices(same_size, LABELED) != indices(same_size, UNLABELED)
    assert indices(keys_of(plan, 40, 11, 20), LABELED) == indices(same_size, LABELED)
    assert indices(keys_of(plan, 11, 40, 20), UNLABELED) == indices(same_size, UNLABELED)


def test_randomness_of_a_sample_differs_with_stream_position_and_seed() -> None:
    # Pools of one image: only the randomness can tell the samples apart.
    drawn = load(BatchPlan(1, 1), 20, labeled=1, unlabeled=1)
    drawn += load(BatchPlan(1, 1), 20, labeled=1, unlabeled=1, seed=4)
    values = [value for labeled, unlabeled in drawn for _, value in labeled + unlabeled]
    assert len(set(values)) == 80


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(num_workers: int) -> None:
    plan = BatchPlan(2, 3, burn_in_batches=3)
    assert load(plan, 9, num_workers=num_workers) == load(plan, 9)


@given(start=st.integers(0, 25), burn_in=st.integers(0, 10), rank=st.integers(0, 1))
def test_a_start_equals_skipping(start: int, burn_in: int, rank: int) -> None:
    plan = BatchPlan(2, 3, burn_in_batches=burn_in, rank=rank, world_size=2)
    assert load(plan, 4, start=start) == load(plan, start + 4)[start:]


def test_a_late_start_visits_no_earlier_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Position 3.6 million of COCO's unlabeled pool is found as position 0 is, without a replay."""
    visited, draws = [], []
    key, generator = ShuffledStream.key, np.random.default_rng

    def visiting(stream: ShuffledStream, position: int) -> SampleKey:
        visited.append(position)
        return key(stream, position)

    def drawing(seed: list[int]) -> np.random.Generator:
        draws.append(seed)
        return generator(seed)

    monkeypatch.setattr(ShuffledStream, "key", visiting)
    monkeypatch.setattr(np.random, "default_rng", drawing)
    keys_of(BatchPlan(4, 16), 1172, 116_000, batches=1, start=225_000)
    assert visited == [*range(900_000, 900_004), *range(3_600_000, 3_600_016)]
    # One order of each pool, that of the epoch.
    assert draws == [[5, LABELED, 900_000 // 1172], [5, UNLABELED, 3_600_000 // 116_000]]


def test_burn_in_draws_labels_only_and_then_both_from_the_start() -> None:
    burn_in = load(BatchPlan(2, 3, burn_in_batches=4), 10)
    assert [len(labeled) for labeled, _ in burn_in] == [2] * 10
    assert [len(unlabeled) for _, unlabeled in burn_in] == [0] * 4 + [3] * 6
    plain = load(BatchPlan(2, 3), 10)
    # The labeled stream runs through; the unlabeled one starts where the burn-in ends.
    assert [labeled for labeled, _ in burn_in] == [labeled for labeled, _ in plain]
    assert [unlabeled for _, unlabeled in burn_in[4:]] == [unlabeled for _, unlabeled in plain[:6]]


def test_the_supervised_baseline_needs_no_unlabeled_pool() -> None:
    for labeled, unlabeled in load(BatchPlan(2, 0), 5, unlabeled=0):
        assert (len(labeled), unlabeled) == (2, [])


@pytest.mark.parametrize(("pool", "sizes"), [("labeled", (0, 3)), ("unlabeled", (3, 0))])
def test_an_empty_pool_is_an_error(pool: str, sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"2 {pool} images per batch, but there are none"):
        load(BatchPlan(2, 2), 1, labeled=sizes[0], unlabeled=sizes[1])


def test_real_samples_arrive_whole_and_unlabeled_ones_without_annotation(
    tmp_path: Path, write_coco: Callable[..., Path]
) -> None:
    count = 8
    rng = np.random.default_rng(0)
    for number in range(1, count + 1):
        pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    boxes = {number: [(7, (1, 1, 4, 3))] for number in range(1, count + 1)}
    path = write_coco(tmp_path / "labels.json", boxes, {7: "cell"})
    assert len(json.loads(path.read_text())["annotations"]) == count

    pools = build_pools([f"coco://{path}?images={tmp_path}"], (), percent=50.0)
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (12, 24)
    loader = build_paired_loader(
        pools.labeled,
        pools.unlabeled,
        LabeledMapper.from_config(cfg),
        UnlabeledMapper.from_config(cfg),
        BatchPlan(1, 2),
        seed=0,
    )
    batches: list[TrainingBatch] = list(itertools.islice(loader, 4))
    labeled = Counter(image["file_name"] for batch in batches for image in batch.labeled)
    unlabeled = Counter(sample.file_name for batch in batches for sample in batch.unlabeled)
    # One epoch of the labeled images, two of the others, and no image in both.
    assert [f for batch in batches for f in batch.failures] == []
    assert sorted(labeled.values()) == [1] * 4
    assert sorted(unlabeled.values()) == [2] * 4
    assert not labeled.keys() & unlabeled.keys()
    assert all(len(image["instances"]) == 1 for batch in batches for image in batch.labeled)

    sample_fields = {field.name for field in dataclasses.fields(UnlabeledSample)}
    assert sample_fields == {"file_name", "weak", "strong", "second", "labels"}
    for batch in batches:
        for sample in batch.unlabeled:
            assert type(sample) is UnlabeledSample
            assert vars(sample).keys() == sample_fields
            # Only what a teacher has stored may stand there, and here none has.
            assert sample.labels is None
            # Of a pair of students, and here is one.
            assert sample.second is None
            for view in (sample.weak, sample.strong):
                assert vars(view).keys() == {"image", "matrix"}


@dataclasses.dataclass(frozen=True)
class Failing:
    """A mapper that cannot read some images."""

    bad: set[str]

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> tuple[str, float]:
        name = record["file_name"]
        if name in self.bad:
            raise ImageError(f"{name}: truncated", name)
        return draw(record, rng)


def load_with_failures(
    bad: set[str], batches: int, start: int = 0, num_workers: int = 0
) -> list[TrainingBatch]:
    loader = build_paired_loader(
        records("l", 5),
        records("u", 7),
        Failing(bad),
        Failing(bad),
        BatchPlan(2, 3),
        seed=3,
        start=start,
        num_workers=num_workers,
    )
    return list(itertools.islice(loader, batches))


def test_an_unreadable_image_is_replaced_and_nothing_else_changes() -> None:
    bad = {"l2", "u0", "u6"}
    failures = 0
    plain = load_with_failures(set(), 30)
    for found, expected in zip(load_with_failures(bad, 30), plain, strict=True):
        for part in ("labeled", "unlabeled"):
            pairs = zip(getattr(found, part), getattr(expected, part), strict=True)
            for sample, original in pairs:
                assert sample[0] not in bad
                # Also the randomness of the others is as before.
                assert (sample == original) == (original[0] not in bad)
        drawn = [sample[0] for sample in expected.labeled + expected.unlabeled]
        named = {failure.file_name for failure in found.failures}
        assert named >= bad & set(drawn)
        assert len(found.failures) >= sum(name in bad for name in drawn)
        for failure in found.failures:
            assert failure == ImageFailure(failure.file_name, f"{failure.file_name}: truncated")
        failures += len(found.failures)
    # One labeled image of five and two unlabeled ones of seven, drawn 60 and 90 times or more.
    assert failures >= 60 // 5 + 2 * (90 // 7)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_replacements_depend_on_the_position_alone(num_workers: int) -> None:
    bad = {"l2", "u0", "u6"}
    expected = load_with_failures(bad, 12)
    assert load_with_failures(bad, 5, start=7, num_workers=num_workers) == expected[7:]


def test_a_pool_without_a_readable_image_leaves_a_gap_that_is_told() -> None:
    [batch] = load_with_failures({f"u{number}" for number in range(7)}, 1)
    assert (len(batch.labeled), batch.unlabeled) == (2, [])
    assert len(batch.failures) == 3 * MAX_ATTEMPTS
    assert [failure.replaced for failure in batch.failures].count(False) == 3


def test_other_errors_are_not_taken_for_unreadable_images() -> None:
    def broken(record: dict[str, Any], rng: np.random.Generator) -> None:
        raise SourceError("not about an image")

    loader = build_paired_loader(
        records("l", 2), records("u", 2), broken, broken, BatchPlan(1, 1), seed=0
    )
    with pytest.raises(SourceError, match="not about an image"):
        next(iter(loader))
