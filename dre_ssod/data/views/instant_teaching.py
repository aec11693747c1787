"""The strong view of Instant-Teaching: holes, light, colors, JPEG, swapped channels and blur.

Strengths, order and probabilities are those of its public config. Boxes stay where they are. Each
function takes and returns an (H, W, 3) uint8 array and leaves its input as it was; colors are in
the order RGB, and :func:`change_pixels` takes either order.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dre_ssod.data.views.photometric import Image

CUTOUT, OTHERS = 0.5, 0.2
"""Probability of the holes, and of each step after them."""
HOLES, HOLE_SIDE = 8, 8
"""Number of black squares, which may overlap, and their side in pixels."""
RISE = (0.1, 0.3)
"""(min, max) by which the contrast's factor is above 1; and of brightness, of 255."""
SHIFT = 10.0
"""Largest change of each of red, green and blue, in gray levels."""
HUE, SATURATION, VALUE = 20.0, 30.0, 20.0
"""Largest changes in OpenCV's units: half degrees for hue, and gray levels."""
QUALITY = (85, 95)
"""(min, max) of JPEG."""
BLUR_SIDE = 3


def change_pixels(image: Image, image_format: str, rng: np.random.Generator) -> Image:
    """Draw what happens to the pixels of a view.

    Args:
        image: (H, W, 3) uint8.
        image_format: order of its channels, "RGB" or "BGR".
    """
    is_rgb = image_format == "RGB"
    image = image if is_rgb else np.ascontiguousarray(image[..., ::-1])
    if rng.random() < CUTOUT:
        image = cut_out(image, rng)
    for step in (brighten, change_colors, compress, shuffle_channels, blur):
        if rng.random() < OTHERS:
            image = step(image, rng)
    return image if is_rgb else np.ascontiguousarray(image[..., ::-1])


def cut_out(image: Image, rng: np.random.Generator) -> Image:
    """Paint squares black; one that starts near the right or lower edge is cut off by it."""
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(HOLES):
        top = max(int(rng.integers(height, endpoint=True)) - HOLE_SIDE // 2, 0)
        left = max(int(rng.integers(width, endpoint=True)) - HOLE_SIDE // 2, 0)
        image[top : top + HOLE_SIDE, left : left + HOLE_SIDE] = 0
    return image


def brighten(image: Image, rng: np.random.Generator) -> Image:
    """Raise contrast, from black on, and brightness."""
    contrast, brightness = rng.uniform(*RISE, size=2)
    return _look_up(image, np.arange(256) * (1.0 + contrast) + 255.0 * brightness)


def change_colors(image: Image, rng: np.random.Generator) -> Image:
    """Shift red, green and blue, or, as often, hue, saturation and value."""
    values = np.arange(256.0)
    if rng.random() < 0.5:
        return _look_up(image, values[:, None] + rng.uniform(-SHIFT, SHIFT, size=3))
    hue, saturation, value = rng.uniform(-1.0, 1.0, size=3) * (HUE, SATURATION, VALUE)
    tables = np.stack([(values + hue) % 180.0, values + saturation, values + value], axis=-1)
    changed = _look_up(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.uint8), tables)
    return np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB), np.uint8)


def compress(image: Image, rng: np.random.Generator) -> Image:
    """Write the image as JPEG and read it again."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*QUALITY, endpoint=True))]
    _, written = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    read = cv2.imdecode(written, cv2.IMREAD_COLOR)
    assert read is not None, "OpenCV has just written it"
    return np.asarray(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), np.uint8)


def shuffle_channels(image: Image, rng: np.random.Generator) -> Image:
    """Put the channels in any order, their own included."""
    return np.ascontiguousarray(image[..., rng.permutation(3)])


def blur(image: Image, rng: np.random.Generator) -> Image:
    """Take the mean of each pixel's neighborhood or, as often, the median."""
    if rng.random() < 0.5:
        return np.asarray(cv2.blur(image, (BLUR_SIDE, BLUR_SIDE)), np.uint8)
    return np.asarray(cv2.medianBlur(image, BLUR_SIDE), np.uint8)


def _look_up(image: Image, table: NDArray[np.float64]) -> Image:
    """Replace values by those of a (256,) table, or of one per channel (256, 3), cut to a byte."""
    cut = np.clip(table, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, cut if cut.ndim == 1 else cut[None]), np.uint8)
