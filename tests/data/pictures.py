"""A picture, for tests of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

SHAPE = (9, 13, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def save(path: Path, image: PillowImage.Image, **options: object) -> str:
    image.save(path, **options)
    return str(path)
