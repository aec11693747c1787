"""The shapes of the built-in sample set, and the integer arithmetic that draws them.

Every value is an integer and every random number comes from the raw bits of PCG64, whose stream
NumPy guarantees. No floating point, no image library and no thread takes part, so that a scene has
the same pixels on every processor and with every version of the dependencies.

Legend: h, w height and width of a patch in pixels. *Subpixels* are quarters of a pixel: masks are
drawn four times finer than the image, and boxes are exact to a subpixel. *Local* coordinates (u, v)
have their origin in the center of a shape and RADIUS (1024) at its rim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
Shape = Callable[[IntArray, IntArray, "RandomStream"], BoolArray]

WIDTH, HEIGHT = 160, 128
SUBPIXELS = 4
RADIUS = 1024
OPAQUE = 256
MAX_TURN = 20

_ONE = 1 << 14
# Rounding to 1/16384 takes away the last bits, in which mathematical libraries may differ.
SINES = tuple(round(_ONE * math.sin(math.radians(degree))) for degree in range(360))


def sine(degrees: int) -> int:
    """Sine of whole degrees in units of 1/16384."""
    return SINES[degrees % 360]


def cosine(degrees: int) -> int:
    """Cosine of whole degrees in units of 1/16384."""
    return SINES[(degrees + 90) % 360]


class RandomStream:
    """Uniform integers that are a function of the key alone, on every machine."""

    def __init__(self, *key: int) -> None:
        # Without its length a key would equal the same one with a zero behind it.
        self._bits = np.random.PCG64(np.random.SeedSequence((len(key), *key)))

    def array(self, low: int, high: int, *shape: int) -> IntArray:
        """Integers in [low, high) of the given shape; both limits fit in int32."""
        raw = np.asarray(self._bits.random_raw(math.prod(shape)), dtype=np.uint64)
        scaled = ((raw >> np.uint64(32)) * np.uint64(high - low)) >> np.uint64(32)
        return (scaled.astype(np.int64) + low).astype(np.int32).reshape(shape)

    def integer(self, low: int, high: int) -> int:
        """One integer in [low, high)."""
        return ((int(self._bits.random_raw()) >> 32) * (high - low) >> 32) + low

    def chance(self, percent: int) -> bool:
        """True in the given percentage of calls."""
        return self.integer(0, 100) < percent


def value_noise(stream: RandomStream, height: int, width: int, cell: int) -> IntArray:
    """Smooth noise (h, w) in [0, 255]: three octaves, the first with the given cell size."""
    total = np.zeros((height, width), dtype=np.int32)
    for octave, weight in enumerate((4, 2, 1)):
        step = max(cell >> octave, 1)
        grid = stream.array(0, 256, height // step + 2, width // step + 2)
        rows, row_weight = _lattice(height, step)
        columns, column_weight = _lattice(width, step)
        bands = (grid[:-1] << 8).take(rows, axis=0)
        bands += np.diff(grid, axis=0).take(rows, axis=0) * row_weight[:, None]
        surface = (bands[:, :-1] << 8).take(columns, axis=1)
        surface += np.diff(bands, axis=1).take(columns, axis=1) * column_weight
        total += weight * (surface >> 16)
    return total // 7


def _lattice(length: int, step: int) -> tuple[IntArray, IntArray]:
    """Grid cell and smoothed weight in [0, 256) of every position."""
    positions = np.arange(length, dtype=np.int32)
    fraction = (positions % step) * 256 // step
    return positions // step, (fraction * fraction * (768 - 2 * fraction)) >> 16


def _half_planes(u: IntArray, v: IntArray, count: int, distance: int) -> IntArray:
    """How many of ``count`` evenly turned half-planes at ``distance`` hold each point."""
    inside = np.zeros(u.shape, dtype=np.int32)
    for k in range(count):
        angle = 90 + 360 * k // count
        inside += (u * cosine(angle) + v * sine(angle)) <= distance * _ONE
    return inside


def _disk(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    return u * u + v * v <= RADIUS**2


def _ring(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    hole = stream.integer(400, 740)
    square = u * u + v * v
    return (square <= RADIUS**2) & (square >= hole**2)


def _square(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    return np.maximum(np.abs(u), np.abs(v)) <= 880


def _triangle(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    return _half_planes(u, v, 3, 580) == 3


def _star(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    # A pentagram is where at most one of the five half-planes of its lines is left.
    return _half_planes(u, v, 5, stream.integer(350, 400)) >= 4


def _cross(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    arm = stream.integer(210, 400)
    across, along = np.abs(u), np.abs(v)
    return (np.minimum(across, along) <= arm) & (np.maximum(across, along) <= RADIUS)


def _bar(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    return (np.abs(u) <= RADIUS) & (np.abs(v) <= stream.integer(60, 190))


def _corner(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    cut = 880 - stream.integer(300, 600)
    return _square(u, v, stream) & ((u > cut) | (v > cut))


def _arc(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    return _ring(u, v, stream) & (u > 0) & (v > 0)


def _dots(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    period = stream.integer(480, 760)
    x, y = u % period - period // 2, v % period - period // 2
    return (x * x + y * y <= (period // 4) ** 2) & _disk(u, v, stream)


def _blob(u: IntArray, v: IntArray, stream: RandomStream) -> BoolArray:
    height, width = u.shape
    noise = value_noise(stream, height, width, max(width // 6, 4))
    return u * u + v * v <= (noise * 6) ** 2


SHAPES: dict[str, Shape] = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}
CLUTTER: tuple[Shape, ...] = (_bar, _corner, _arc, _dots, _blob)


@dataclass(frozen=True)
class PlacedShape:
    """A shape and where it stands.

    Attributes:
        category: index of the class; None for clutter.
        left, top: the pixel at which the mask begins; it may lie outside the image.
        radius: in pixels.
        mask: (SUBPIXELS * h, SUBPIXELS * w), not clipped to the image.
    """

    category: int | None
    left: int
    top: int
    radius: int
    mask: BoolArray

    @cached_property
    def area(self) -> int:
        """Size of the whole mask in subpixels."""
        return int(np.count_nonzero(self.mask))

    def coverage(self) -> IntArray:
        """Opacity (h, w) in [0, OPAQUE] of each pixel before fading and blur."""
        height, width = (side // SUBPIXELS for side in self.mask.shape)
        cells = self.mask.reshape(height, SUBPIXELS, width, SUBPIXELS)
        return cells.sum(axis=(1, 3), dtype=np.int32) * (OPAQUE // SUBPIXELS**2)


def draw_shape(
    stream: RandomStream, category: int | None, shape: Shape, radius: int
) -> PlacedShape:
    """Draw a shape with a random place, turn, aspect ratio and bend; radius in subpixels."""
    inset = radius // 3
    center_x = stream.integer(-inset, WIDTH * SUBPIXELS + inset)
    center_y = stream.integer(-inset, HEIGHT * SUBPIXELS + inset)
    angle = stream.integer(-MAX_TURN, MAX_TURN + 1)
    aspect = stream.integer(640, RADIUS + 1)
    reach = radius * 3 // 2 // SUBPIXELS + 1
    side = (2 * reach + 1) * SUBPIXELS
    left, top = center_x // SUBPIXELS - reach, center_y // SUBPIXELS - reach
    # Twice the distance to the center, then 256 times the local coordinates by row and column.
    offsets = 2 * np.arange(side, dtype=np.int64) + 1
    dx = (offsets + 2 * (left * SUBPIXELS - center_x))[None, :]
    dy = (offsets + 2 * (top * SUBPIXELS - center_y))[:, None]
    along, across = (part * (RADIUS << 15) // radius for part in (cosine(angle), sine(angle)))
    terms = (
        dx * along,
        dy * across,
        dx * -across * RADIUS // aspect,
        dy * along * RADIUS // aspect,
    )
    u_x, u_y, v_x, v_y = ((term >> 22).astype(np.int32) for term in terms)
    u, v = (u_x + u_y) >> 8, (v_x + v_y) >> 8
    bends = stream.array(-150, 151, 4)
    uu, uv, vv = u * u >> 4, u * v >> 4, v * v >> 4
    u += (uv * bends[0] + vv * bends[1]) >> 16
    v += (uu * bends[2] + uv * bends[3]) >> 16
    return _cropped(PlacedShape(category, left, top, radius // SUBPIXELS, shape(u, v, stream)))


def _cropped(item: PlacedShape) -> PlacedShape:
    """The item without the empty pixels around its mask."""
    spans = []
    for axis in (1, 0):
        filled = np.flatnonzero(item.mask.any(axis=axis))
        first, last = (filled[0], filled[-1]) if len(filled) else (0, 0)
        spans.append((int(first) // SUBPIXELS, int(last) // SUBPIXELS + 1))
    rows, columns = spans
    mask = item.mask[
        rows[0] * SUBPIXELS : rows[1] * SUBPIXELS, columns[0] * SUBPIXELS : columns[1] * SUBPIXELS
    ]
    return replace(item, left=item.left + columns[0], top=item.top + rows[0], mask=mask)


def overlap_with_image(
    left: int, top: int, shape: tuple[int, ...], unit: int = 1
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the image and of a patch where the two meet; empty where they do not.

    Args:
        left, top: the pixel of the image at which the patch begins.
        shape: (height, width) of the patch.
        unit: 1 if ``shape`` and the slices are in pixels, SUBPIXELS if they are in subpixels.
    """
    spans = []
    for start, length, limit in ((top, shape[0], HEIGHT), (left, shape[1], WIDTH)):
        first = max(start * unit, 0)
        spans.append((start * unit, first, max(first, min(start * unit + length, limit * unit))))
    rows, columns = (slice(first, last) for _, first, last in spans)
    patch_rows, patch_columns = (slice(first - start, last - start) for start, first, last in spans)
    return (rows, columns), (patch_rows, patch_columns)
