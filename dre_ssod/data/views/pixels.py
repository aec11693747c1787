"""The strong view of Unbiased Teacher: pixels change, boxes stay where they are.

Color jitter, grayscale and blur are those of SimCLR, by Pillow's definitions; the erased rectangles
hold noise. Each function takes and returns an (H, W, 3) uint8 array and leaves its input as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image as PillowImage
from torchvision.transforms import functional as F

from dre_ssod.data.views.geometric import Matrix
from dre_ssod.data.views.photometric import Image, brightness, color, contrast
from dre_ssod.data.views.views import Strengthen


@dataclass(frozen=True)
class NoiseErasing:
    """One rectangle of noise.

    Attributes:
        probability: that there is one.
        area: (min, max) as a fraction of the image's.
        aspect: (min, max) height over width; its logarithm is uniform.
    """

    probability: float
    area: tuple[float, float]
    aspect: tuple[float, float]


@dataclass(frozen=True)
class PixelRecipe:
    """What may happen to the pixels of a view, in this order; the defaults are Unbiased Teacher's.

    Attributes:
        jitter: probability of the color jitter: brightness, contrast and saturation by a factor in
            1 -+ ``strength``, hue by up to ``hue`` turns either way, in random order.
        gray: probability of a gray image.
        blur: probability of a Gaussian blur with a deviation of ``sigma`` (min, max) pixels.
        erasing: rectangles of noise.
    """

    jitter: float = 0.8
    strength: float = 0.4
    hue: float = 0.1
    gray: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    erasing: tuple[NoiseErasing, ...] = (
        NoiseErasing(0.7, (0.05, 0.2), (0.3, 3.3)),
        NoiseErasing(0.5, (0.02, 0.2), (0.1, 6.0)),
        NoiseErasing(0.3, (0.02, 0.2), (0.05, 8.0)),
    )

    def __call__(self, image: Image, image_format: str, rng: np.random.Generator) -> Image:
        """Draw what happens to the pixels of a view.

        Args:
            image: (H, W, 3) uint8.
            image_format: order of its channels, "RGB" or "BGR".
        """
        if rng.random() < self.jitter:
            image = _jitter(image, self, image_format, rng)
        if rng.random() < self.gray:
            image = color(image, 0.0, image_format)
        if rng.random() < self.blur:
            deviation = float(rng.uniform(*self.sigma))
            edge = cv2.BORDER_REPLICATE
            image = np.asarray(
                cv2.GaussianBlur(image, (0, 0), deviation, borderType=edge), np.uint8
            )
        for erasing in self.erasing:
            if rng.random() < erasing.probability:
                image = erase_with_noise(image, erasing, rng)
        return image


def pixels_alone(recipe: PixelRecipe, image_format: str) -> Strengthen:
    """A strong view of the same geometry as the weak one, for ``make_pair``."""

    def strengthen(image: Image, matrix: Matrix, rng: np.random.Generator) -> tuple[Image, Matrix]:
        return recipe(image, image_format, rng), np.eye(3)

    return strengthen


def hue(image: Image, turns: float, image_format: str) -> Image:
    """Turn the hue by a share, in [-0.5, 0.5], of the color circle."""
    rgb = image if image_format == "RGB" else np.ascontiguousarray(image[..., ::-1])
    turned = np.asarray(F.adjust_hue(PillowImage.fromarray(rgb), turns), np.uint8)
    return turned if image_format == "RGB" else np.ascontiguousarray(turned[..., ::-1])


def erase_with_noise(image: Image, erasing: NoiseErasing, rng: np.random.Generator) -> Image:
    """A copy of an image with a rectangle of noise, where ten draws find one that fits.

    The noise is that of the public code: normal with deviation 255, its whole part modulo 256.
    """
    height, width = image.shape[:2]
    low, high = map(math.log, erasing.aspect)
    for _ in range(10):
        area = height * width * float(rng.uniform(*erasing.area))
        aspect = math.exp(rng.uniform(low, high))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < height and columns < width:
            top = int(rng.integers(height - rows, endpoint=True))
            left = int(rng.integers(width - columns, endpoint=True))
            noise = 255.0 * rng.standard_normal((rows, columns, image.shape[2]))
            erased = image.copy()
            # Numbers are cut off toward 0; the last eight bits of the rest stay.
            erased[top : top + rows, left : left + columns] = noise.astype(np.int64) & 255
            return erased
    return image


def _jitter(
    image: Image, recipe: PixelRecipe, image_format: str, rng: np.random.Generator
) -> Image:
    low, high = max(0.0, 1.0 - recipe.strength), 1.0 + recipe.strength
    for step in rng.permutation(["brightness", "contrast", "saturation", "hue"]):
        if step == "hue":
            image = hue(image, float(rng.uniform(-recipe.hue, recipe.hue)), image_format)
            continue
        factor = float(rng.uniform(low, high))
        if step == "brightness":
            image = brightness(image, factor)
        elif step == "contrast":
            image = contrast(image, factor, image_format)
        else:
            image = color(image, factor, image_format)
    return image
