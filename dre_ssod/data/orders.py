"""Shuffled orders of images, as a function of seed, stream and epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LARGE = 2**24
"""Images from which on an order is computed place by place, and not kept."""
_ROUNDS = 6


def draw_order(size: int, seed: list[int]) -> Callable[[int], int]:
    """A permutation of the numbers below ``size``: what stands at a place.

    Of a smaller set it is drawn and kept, eight bytes for each image; of a large one it is that of
    :class:`FeistelOrder`, which needs no memory.
    """
    rng = np.random.default_rng(seed)
    if size <= LARGE:
        order = rng.permutation(size)
        return lambda place: int(order[place])
    return FeistelOrder(size, rng)


class FeistelOrder:
    """A permutation that is computed for each place by itself.

    A Feistel network permutes the numbers of 2k bits whatever its round function is (Luby and
    Rackoff, 1988, "How to construct pseudorandom permutations from pseudorandom functions"); a
    number that is not below ``size`` is put in again until it leads to one that is (Black and
    Rogaway, 2002, "Ciphers with arbitrary finite domains"), four times at most on average.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        """
        Args:
            size: numbers that are permuted, at least 1.
            rng: draws the keys.
        """
        self._size = size
        self._half = max(1, -(-(size - 1).bit_length() // 2))
        self._mask = 2**self._half - 1
        self._keys = [int(key) for key in rng.integers(2**63, size=_ROUNDS)]

    def __call__(self, place: int) -> int:
        """The number at a place, which is below ``size``."""
        number = self._permute(place)
        while number >= self._size:
            number = self._permute(number)
        return number

    def _permute(self, number: int) -> int:
        left, right = number >> self._half, number & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return left << self._half | right


def _mix(number: int) -> int:
    """The finalizer of SplitMix64: all 64 bits out depend on all 64 bits in."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    number = (number ^ number >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return number ^ number >> 31
