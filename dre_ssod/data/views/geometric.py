"""Geometric operations of the strong view, as matrices and one warp.

Coordinates are continuous: pixel (i, j) covers [j, j + 1] x [i, i + 1], an image of width w spans
[0, w]. OpenCV's warps put pixel (i, j) at the point (j, i) instead, which is half a pixel off; see
:func:`warp`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dre_ssod.data.views.photometric import Image

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class GeometricRecipe:
    """One of translate x, translate y, rotate, shear in x and y; all equally likely.

    The shear is Soft Teacher's: first in x, then in y, each by the hyperbolic tangent of an angle
    of its own, by which 30 degrees are 0.48 where the tangent gives 0.58.

    Attributes:
        max_translate: largest translation as a fraction of the side along which it goes.
        max_rotate: largest rotation about the center, in degrees.
        max_shear: largest shear angle about the upper left corner, in degrees, below 90.
        lone_shears: a shear in x and one in y are an operation each, by the angle's tangent.
    """

    max_translate: float
    max_rotate: float
    max_shear: float
    lone_shears: bool = False


def warp(
    image: Image,
    matrix: Matrix,
    fill: tuple[int, ...],
    size: tuple[int, int] | None = None,
    nearest: bool = False,
) -> Image:
    """Move an image by an affine map of continuous coordinates.

    Args:
        image: (H, W, 3) uint8.
        matrix: (3, 3), from the coordinates of ``image`` to those of the result.
        fill: gray level per channel of pixels that come from outside.
        size: (height, width) of the result; None for that of ``image``.
        nearest: a pixel is the nearest one; else a mean of the four around.
    """
    height, width = size or image.shape[:2]
    if is_whole_shift(matrix) and (height, width) == image.shape[:2]:
        return _shift(image, int(matrix[0, 2]), int(matrix[1, 2]), fill)
    half = translation(0.5, 0.5)
    centers = np.linalg.inv(half) @ matrix @ half
    # OpenCV warps four channels in half the time of three.
    padded = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    warped = cv2.warpAffine(
        padded, centers[:2], (width, height), flags=flags, borderValue=(*fill, 0)
    )
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), np.uint8)


def is_whole_shift(matrix: Matrix) -> bool:
    """Whether a (3, 3) matrix moves by whole pixels only: the cheap and lossless case."""
    return bool(np.array_equal(matrix[:2, :2], np.eye(2)) and not np.any(matrix[:2, 2] % 1.0))


def _shift(image: Image, x: int, y: int, fill: tuple[int, ...]) -> Image:
    """A copy of an image, moved by x pixels to the right and y down."""
    height, width = image.shape[:2]
    x, y = min(max(x, -width), width), min(max(y, -height), height)
    kept = image[max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)]
    if kept.size == 0:
        return np.full_like(image, fill)
    top, bottom, left, right = max(y, 0), max(-y, 0), max(x, 0), max(-x, 0)
    border = cv2.BORDER_CONSTANT
    shifted = cv2.copyMakeBorder(kept, top, bottom, left, right, border, value=(*fill, 0))
    return np.asarray(shifted, np.uint8)


def random_distortion(
    width: int, height: int, recipe: GeometricRecipe, rng: np.random.Generator
) -> Matrix:
    """Draw the (3, 3) matrix of one geometric operation on a view of this size.

    Translations are whole pixels. A rotation keeps the center of the view in place, a shear its
    upper left corner.
    """
    kind = int(rng.integers(5 if recipe.lone_shears else 4))
    if kind == 0:
        return translation(_whole_shift(width, recipe, rng), 0.0)
    if kind == 1:
        return translation(0.0, _whole_shift(height, recipe, rng))
    if kind == 2:
        center = translation(width / 2.0, height / 2.0)
        turn = rotation(rng.uniform(-recipe.max_rotate, recipe.max_rotate))
        return center @ turn @ np.linalg.inv(center)
    if recipe.lone_shears:
        slope = math.tan(math.radians(rng.uniform(-recipe.max_shear, recipe.max_shear)))
        return shear(slope, 0.0) if kind == 3 else shear(0.0, slope)
    angles = rng.uniform(-recipe.max_shear, recipe.max_shear, size=2)
    return shear(*np.tanh(np.radians(angles)))


def translation(x: float, y: float) -> Matrix:
    """(3, 3) shift in pixels."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def rotation(degrees: float) -> Matrix:
    """(3, 3) rotation about the origin; positive is clockwise on the screen, as y points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def shear(x: float, y: float) -> Matrix:
    """(3, 3) shear about the origin: x grows by ``x`` times y, then y by ``y`` times that x."""
    in_x, in_y = np.eye(3), np.eye(3)
    in_x[0, 1] = x
    in_y[1, 0] = y
    return in_y @ in_x


def _whole_shift(side: int, recipe: GeometricRecipe, rng: np.random.Generator) -> float:
    largest = int(recipe.max_translate * side)
    return float(rng.integers(-largest, largest, endpoint=True))
