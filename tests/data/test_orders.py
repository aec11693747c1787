from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dre_ssod.data import orders
from dre_ssod.data.orders import FeistelOrder, draw_order


def feistel(size: int, seed: int = 0) -> list[int]:
    order = FeistelOrder(size, np.random.default_rng(seed))
    return [order(place) for place in range(size)]


@given(size=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_a_computed_order_has_every_number_once(size: int, seed: int) -> None:
    assert sorted(feistel(size, seed)) == list(range(size))


def test_every_place_has_every_number_as_often() -> None:
    """Of 4 numbers in 6000 orders, each of the 24 orders and each pair of neighbors; chi-square."""
    seen = Counter(tuple(feistel(4, seed)) for seed in range(6000))
    assert len(seen) == 24
    # 23 degrees of freedom: above 60 once in 30,000.
    assert sum((count - 250) ** 2 / 250 for count in seen.values()) < 60
    first, second = (np.array(feistel(1000, seed)) for seed in (1, 2))
    for one, other in ((first, second), (first, np.arange(1000)), (first[1:], first[:-1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_a_set_that_fits_has_the_order_that_it_always_had() -> None:
    """Runs of before are resumed with it."""
    order = draw_order(1000, [5, 1, 3])
    expected = np.random.default_rng([5, 1, 3]).permutation(1000)
    assert [order(place) for place in range(1000)] == expected.tolist()


def test_a_large_set_needs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 10**8
    order = draw_order(size, [5, 1, 3])
    places = np.random.default_rng(0).integers(size, size=2000).tolist()
    found = [order(place) for place in places]
    assert len(set(found)) == len(set(places))
    assert max(found) < size
    assert np.mean(found) == pytest.approx(size / 2, rel=0.05)
    assert found != [draw_order(size, [5, 1, 4])(place) for place in places]
    assert isinstance(order, FeistelOrder)
    monkeypatch.setattr(orders, "LARGE", 10)
    small = draw_order(11, [5, 1, 3])
    assert sorted(small(place) for place in range(11)) == list(range(11))
