"""Color, texture, fading and blur of the built-in sample set, in integers throughout.

Legend: H, W image height and width in pixels; h, w height and width of a patch. Canvases
(H, W, 3) and textures (h, w, 3) are int32 in [0, 255], opacities (h, w) int32 in [0, OPAQUE].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from dre_ssod.data.sample.shapes import (
    HEIGHT,
    OPAQUE,
    WIDTH,
    IntArray,
    PlacedShape,
    RandomStream,
    cosine,
    overlap_with_image,
    sine,
    value_noise,
)

Pattern = Callable[[RandomStream, int, int], IntArray]

_COLOR_TRIES = 12
_CLEAR, _FAINT = 130, 70
_MARGIN = 8


def paint(stream: RandomStream, items: Iterable[PlacedShape]) -> npt.NDArray[np.uint8]:
    """Paint items from back to front on a random background: (H, W, 3) uint8 RGB."""
    canvas = _background(stream)
    for item in items:
        _blend(stream, canvas, item)
    grain = stream.integer(2, 10)
    canvas += stream.array(-grain, grain + 1, HEIGHT, WIDTH, 1)
    canvas += stream.array(-grain, grain + 1, HEIGHT, WIDTH, 3) // 2
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _background(stream: RandomStream) -> IntArray:
    """Two textures that share the image along a ragged border, under uneven light."""
    near = _texture(stream, HEIGHT, WIDTH, _color(stream), 90)
    far = _texture(stream, HEIGHT, WIDTH, _color(stream), 90)
    border = value_noise(stream, HEIGHT, WIDTH, stream.integer(40, 100))
    share = np.clip((border - stream.integer(70, 190)) * stream.integer(2, 24), 0, OPAQUE)[
        ..., None
    ]
    canvas = (near * (OPAQUE - share) + far * share) // OPAQUE
    angle, strength = stream.integer(0, 360), stream.integer(0, 90)
    return canvas * (OPAQUE + _slope(HEIGHT, WIDTH, angle, strength)[..., None]) // OPAQUE


def _blend(stream: RandomStream, canvas: IntArray, item: PlacedShape) -> None:
    """Paint one item on the canvas, in place."""
    opacity = np.pad(item.coverage(), _MARGIN)
    target, source = overlap_with_image(item.left - _MARGIN, item.top - _MARGIN, opacity.shape)
    weights = opacity[source][..., None]
    behind = (canvas[target] * weights).sum(axis=(0, 1), dtype=np.int64) // max(weights.sum(), 1)
    contrast = _FAINT if stream.chance(10) else _CLEAR
    height, width = opacity.shape
    texture = _texture(stream, height, width, _contrasting_color(stream, behind, contrast), 70)
    if stream.chance(30):
        opacity = _faded(stream, opacity, item.radius)
    if stream.chance(20):
        opacity = _blurred(opacity, min(stream.integer(1, 13), 1 + item.radius**2 // 16))
    elif stream.chance(15):
        opacity = _moved(stream, opacity, min(stream.integer(3, 8), item.radius))
    alpha = opacity[source][..., None]
    canvas[target] = (canvas[target] * (OPAQUE - alpha) + texture[source] * alpha) // OPAQUE


def _color(stream: RandomStream) -> IntArray:
    return stream.array(20, 236, 3)


def _contrasting_color(
    stream: RandomStream, behind: npt.NDArray[np.int64], contrast: int
) -> IntArray:
    """A color at a summed distance of ``contrast`` from that behind it, or the best of some."""
    best, best_distance = _color(stream), -1
    for _ in range(_COLOR_TRIES):
        color = _color(stream)
        distance = int(np.abs(color - behind).sum())
        if distance > best_distance:
            best, best_distance = color, distance
        if best_distance >= contrast:
            break
    return best


def _texture(
    stream: RandomStream, height: int, width: int, color: IntArray, variation: int
) -> IntArray:
    """A patterned surface (h, w, 3) between ``color`` and another at most ``variation`` away."""
    pattern = _PATTERNS[stream.integer(0, len(_PATTERNS))](stream, height, width)[..., None]
    other = color + stream.array(-variation, variation + 1, 3)
    rough = (value_noise(stream, height, width, stream.integer(3, 9)) - 128)[..., None]
    surface = (color * (OPAQUE - pattern) + other * pattern) // OPAQUE
    return np.clip(surface + rough * stream.integer(5, 50) // OPAQUE, 0, 255)


def _plane(height: int, width: int, angle: int) -> IntArray:
    """Signed distance (h, w) from the middle along a direction, in sixteenths of a pixel."""
    y = (2 * np.arange(height, dtype=np.int32) + 1 - height)[:, None]
    x = (2 * np.arange(width, dtype=np.int32) + 1 - width)[None, :]
    return (x * cosine(angle) + y * sine(angle)) >> 11


def _slope(height: int, width: int, angle: int, strength: int) -> IntArray:
    """A ramp (h, w) from about -strength to strength over the patch."""
    return _plane(height, width, angle) * strength // (8 * max(height, width))


def _noise_pattern(stream: RandomStream, height: int, width: int) -> IntArray:
    return value_noise(stream, height, width, stream.integer(5, 40))


def _spots_pattern(stream: RandomStream, height: int, width: int) -> IntArray:
    noise = value_noise(stream, height, width, stream.integer(4, 20))
    return np.clip((noise - stream.integer(100, 160)) * 12, 0, OPAQUE)


def _gradient_pattern(stream: RandomStream, height: int, width: int) -> IntArray:
    return np.clip(128 + _slope(height, width, stream.integer(0, 360), 128), 0, OPAQUE)


def _stripes_pattern(stream: RandomStream, height: int, width: int) -> IntArray:
    """Parallel waves, bent by noise."""
    bend = value_noise(stream, height, width, 24) * stream.integer(0, 3) // 4
    phase = _plane(height, width, stream.integer(0, 360)) + bend
    period = 16 * stream.integer(4, 20)
    wave = np.abs((phase % period) * 2 - period) * 512 // period - 128
    return np.clip(wave, 0, OPAQUE)


def _checks_pattern(stream: RandomStream, height: int, width: int) -> IntArray:
    angle, period = stream.integer(0, 360), 16 * stream.integer(5, 14)
    rows = _plane(height, width, angle) // period
    columns = _plane(height, width, angle + 90) // period
    return ((rows + columns) % 2) * OPAQUE


_PATTERNS: tuple[Pattern, ...] = (
    _noise_pattern,
    _noise_pattern,
    _spots_pattern,
    _gradient_pattern,
    _stripes_pattern,
    _checks_pattern,
)


def _faded(stream: RandomStream, opacity: IntArray, radius: int) -> IntArray:
    """Let one side run out into the background."""
    height, width = opacity.shape
    distance = _plane(height, width, stream.integer(0, 360)) + 16 * radius
    length = 16 * radius * stream.integer(40, 130) // 100
    least = stream.integer(15, 80)
    return opacity * np.clip(distance * OPAQUE // max(length, 1), least, OPAQUE) // OPAQUE


def _blurred(opacity: IntArray, passes: int) -> IntArray:
    """Binomial blur with a variance of passes / 2 square pixels in each direction."""
    for _ in range(passes):
        padded = np.pad(opacity, 1)
        rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        opacity = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) // 16
    return opacity


def _moved(stream: RandomStream, opacity: IntArray, length: int) -> IntArray:
    """Mean of the opacity over a straight motion of ``length`` pixels."""
    angle = stream.integer(0, 360)
    total = np.zeros_like(opacity)
    for step in range(length):
        reach = 2 * step + 1 - length
        shift = [(reach * part + (1 << 14)) >> 15 for part in (sine(angle), cosine(angle))]
        total += np.roll(opacity, shift, axis=(0, 1))
    return total // length
