"""Photometric operations of the strong and labeled views.

Each function takes and returns an (H, W, 3) uint8 array, leaves its input as it was and has the
definition of the operation of that name in Pillow's ``ImageOps`` or ``ImageEnhance`` (within one
gray level). They work on the array itself by look-up tables and one pass of OpenCV.

Boxes are not affected by any of them.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

STRENGTHS = range(1, 10)
"""Strengths of an operation, all equally likely. What they mean is Soft Teacher's: see
:func:`enhance_factor`, :func:`solarize_threshold` and :func:`posterize_bits`."""

_LUMA_RGB = (0.299, 0.587, 0.114)
_GRAY_CODES = {"RGB": cv2.COLOR_RGB2GRAY, "BGR": cv2.COLOR_BGR2GRAY}
IMAGE_FORMATS = tuple(_GRAY_CODES)

# Pillow cuts off the fraction where OpenCV rounds; this shift makes one into the other.
_TRUNCATE = -0.499


def autocontrast(image: Image) -> Image:
    """Stretch each channel linearly, so that its darkest value becomes 0 and its brightest 255."""
    tables = []
    for counts in _histograms(image):
        used = np.flatnonzero(counts)
        low, high = int(used[0]), int(used[-1])
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        tables.append(_clip_to_uint8(np.arange(256) * scale + offset))
    return _look_up_by_channel(image, tables)


def equalize(image: Image) -> Image:
    """Spread each channel's values so that its histogram becomes as even as a table can make it."""
    tables = []
    for counts in _histograms(image):
        used = counts[counts > 0]
        step = int(used.sum() - used[-1]) // 255
        if step == 0:
            tables.append(np.arange(256, dtype=np.uint8))
            continue
        before = np.cumsum(counts) - counts
        tables.append(np.minimum((step // 2 + before) // step, 255).astype(np.uint8))
    return _look_up_by_channel(image, tables)


def solarize(image: Image, threshold: int) -> Image:
    """Invert the values from ``threshold``, in [0, 256], on."""
    values = np.arange(256)
    return _look_up(image, np.where(values < threshold, values, 255 - values).astype(np.uint8))


def posterize(image: Image, bits: int) -> Image:
    """Keep the ``bits``, in [1, 8], highest bits of each value."""
    if not 1 <= bits <= 8:
        raise ValueError(f"posterize keeps 1 to 8 bits of a value, not {bits}")
    kept = 256 - (1 << (8 - bits))
    return _look_up(image, (np.arange(256) & kept).astype(np.uint8))


def brightness(image: Image, factor: float) -> Image:
    """Blend black (factor 0) with the image (factor 1)."""
    return _look_up(image, _clip_to_uint8(np.arange(256, dtype=np.float32) * np.float32(factor)))


def contrast(image: Image, factor: float, image_format: str) -> Image:
    """Blend the image's mean luma (factor 0) with the image (factor 1)."""
    gray = cv2.cvtColor(image, _gray_code(image_format))
    mean = np.float32(int(cv2.mean(gray)[0] + 0.5))
    values = np.arange(256, dtype=np.float32)
    return _look_up(image, _clip_to_uint8(mean + np.float32(factor) * (values - mean)))


def color(image: Image, factor: float, image_format: str) -> Image:
    """Blend the gray image (factor 0) with the image (factor 1)."""
    _gray_code(image_format)
    luma = np.array(_LUMA_RGB if image_format == "RGB" else _LUMA_RGB[::-1])
    mix = factor * np.eye(3) + (1.0 - factor) * luma
    shift = _TRUNCATE if factor != 1.0 else 0.0
    return np.asarray(cv2.transform(image, np.column_stack([mix, np.full(3, shift)])), np.uint8)


def sharpness(image: Image, factor: float) -> Image:
    """Blend a 3x3 smoothed image (factor 0) with the image (factor 1); the frame stays as it is."""
    smooth = np.ones((3, 3))
    smooth[1, 1] = 5.0
    kernel = (1.0 - factor) * smooth / smooth.sum()
    kernel[1, 1] += factor
    shift = _TRUNCATE if factor != 1.0 else 0.0
    result = np.asarray(cv2.filter2D(image, -1, kernel, delta=shift), np.uint8)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        result[edge] = image[edge]
    return result


def random_photometric(image: Image, image_format: str, rng: np.random.Generator) -> Image:
    """Apply one operation of :data:`PHOTOMETRIC_OPS`, all equally likely, of random strength.

    Args:
        image: (H, W, 3) uint8.
        image_format: order of its channels, "RGB" or "BGR".
        rng: gives the operation, then its strength.

    Raises:
        ValueError: if ``image_format`` is neither.
    """
    _gray_code(image_format)
    name = list(PHOTOMETRIC_OPS)[int(rng.integers(len(PHOTOMETRIC_OPS)))]
    return PHOTOMETRIC_OPS[name](image, image_format, int(rng.choice(STRENGTHS)))


def enhance_factor(strength: int) -> float:
    """Of color, contrast, brightness and sharpness: 0.28, 0.46, ... 1.72; 1 changes nothing."""
    return 0.1 + 0.18 * strength


def solarize_threshold(strength: int) -> int:
    """25, 51, ... 230: what is as bright or brighter is inverted."""
    return int(25.6 * strength)


def posterize_bits(strength: int) -> int:
    """4, 4, 3, 3, 2, 2, 2, 1, 1 bits that are kept."""
    return 4 - int(0.4 * strength)


PHOTOMETRIC_OPS: dict[str, Callable[[Image, str, int], Image]] = {
    "identity": lambda image, image_format, strength: image,
    "autocontrast": lambda image, image_format, strength: autocontrast(image),
    "equalize": lambda image, image_format, strength: equalize(image),
    "solarize": lambda image, image_format, strength: solarize(image, solarize_threshold(strength)),
    "color": lambda image, image_format, strength: color(
        image, enhance_factor(strength), image_format
    ),
    "contrast": lambda image, image_format, strength: contrast(
        image, enhance_factor(strength), image_format
    ),
    "brightness": lambda image, image_format, strength: brightness(image, enhance_factor(strength)),
    "sharpness": lambda image, image_format, strength: sharpness(image, enhance_factor(strength)),
    "posterize": lambda image, image_format, strength: posterize(image, posterize_bits(strength)),
}
"""The operations by name; each has its own meaning of a strength in ``STRENGTHS``."""


def _gray_code(image_format: str) -> int:
    if image_format not in _GRAY_CODES:
        raise ValueError(
            f"INPUT.FORMAT is {image_format!r}: photometric operations need the order of three "
            f"color channels, one of {list(IMAGE_FORMATS)}"
        )
    return _GRAY_CODES[image_format]


def _histograms(image: Image) -> list[NDArray[np.int64]]:
    """Per channel, (256,) counts of the values."""
    return [
        cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        for channel in range(image.shape[2])
    ]


def _clip_to_uint8(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _look_up(image: Image, table: NDArray[np.uint8]) -> Image:
    return np.asarray(cv2.LUT(image, table), np.uint8)


def _look_up_by_channel(image: Image, tables: list[NDArray[np.uint8]]) -> Image:
    return np.asarray(cv2.LUT(image, np.stack(tables, axis=-1)[None]), np.uint8)
