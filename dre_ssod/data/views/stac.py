"""The strong view of STAC: a color operation, a move of the image or of what is in one box, cutout.

Strengths are those of its public code. Coordinates are continuous, as in ``geometric``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dre_ssod.data.views.geometric import Matrix, rotation, shear, translation, warp
from dre_ssod.data.views.photometric import Image, random_photometric

WHOLE, IN_BOX = (0.1, 30.0), (0.05, 10.0)
"""Largest shift, a fraction of the side, and largest angle, in degrees: of the image; in a box."""
FILL, CUTOUT_FILL = (125, 125, 125), (128, 128, 128)
CUTOUTS = (1, 5)
"""(min, max) number of cutout squares. Each has no side at all or, as often, one of CUTOUT_SIDE."""
CUTOUT_SIDE = 0.2
"""As a fraction of the image's height."""


def strengthen(
    image: Image, boxes: NDArray[np.float64], image_format: str, rng: np.random.Generator
) -> tuple[Image, Matrix]:
    """Draw the strong view of an image: color and move in random order, then cutout.

    A move takes the nearest pixel or, as often, interpolates.

    Args:
        image: (H, W, 3) uint8; it is not changed.
        boxes: (R, 4) of its labels.
        image_format: order of its channels.

    Returns:
        the view, of the same size, and the (3, 3) matrix that leads to it.
    """
    matrix = np.eye(3)
    nearest = bool(rng.random() < 0.5)
    for step in rng.permutation(["color", "move"]):
        if step == "color":
            image = random_photometric(image, image_format, rng)
        elif rng.random() < 0.5:
            height, width = image.shape[:2]
            matrix = random_move(width, height, *WHOLE, rng)
            image = warp(image, matrix, FILL, nearest=nearest)
        else:
            image = move_in_box(image, boxes, rng, nearest)
    return cut_out(image, rng), matrix


def random_move(
    width: int, height: int, shift: float, degrees: float, rng: np.random.Generator
) -> Matrix:
    """(3, 3) of one of: translation in x, in y, rotation, shear in both; about the center.

    Args:
        shift: largest translation, as a fraction of the side.
        degrees: largest angle.
    """
    kind = int(rng.integers(4))
    if kind == 0:
        return translation(float(round(rng.uniform(-shift, shift) * width)), 0.0)
    if kind == 1:
        return translation(0.0, float(round(rng.uniform(-shift, shift) * height)))
    if kind == 2:
        linear = rotation(float(rng.uniform(-degrees, degrees)))
    else:
        linear = shear(*np.tan(np.radians(rng.uniform(-degrees, degrees, size=2))))
    center = translation(width / 2.0, height / 2.0)
    return center @ linear @ np.linalg.inv(center)


def move_in_box(
    image: Image, boxes: NDArray[np.float64], rng: np.random.Generator, nearest: bool = False
) -> Image:
    """A copy of an image in which what one of the boxes shows has moved, and nothing outside it.

    Args:
        nearest: see :func:`warp`.
    """
    height, width = image.shape[:2]
    if not len(boxes):
        return image
    corners = boxes[int(rng.integers(len(boxes)))].round().astype(int)
    (left, right), (top, bottom) = (
        np.clip(corners[axis::2], 0, side) for axis, side in ((0, width), (1, height))
    )
    if left >= right or top >= bottom:
        return image
    crop = np.ascontiguousarray(image[top:bottom, left:right])
    move = random_move(int(right - left), int(bottom - top), *IN_BOX, rng)
    moved = image.copy()
    moved[top:bottom, left:right] = warp(crop, move, FILL, nearest=nearest)
    return moved


def cut_out(image: Image, rng: np.random.Generator) -> Image:
    """A copy of an image with squares painted over, which may stick out of it."""
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(*CUTOUTS, endpoint=True))):
        side = round(float(rng.choice([0.0, CUTOUT_SIDE])) * height)
        x, y = int(rng.integers(width)), int(rng.integers(height))
        top, left = max(y - side // 2, 0), max(x - side // 2, 0)
        image[top : max(y - side // 2 + side, 0), left : max(x - side // 2 + side, 0)] = CUTOUT_FILL
    return image
