"""A small set of pictures, and the forms that it is written in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dre_ssod.data.conversion.convert import FORMS

Writer = Callable[..., Path]

# Not in the order of its names, and with an image without objects.
OBJECTS = {
    "zebra 1": [("dog", (5, 4, 20, 22), 0), ("cat", (10, 8, 31, 24), 1)],
    "ant": [("cat", (1, 1, 12, 9), 0)],
    "ant-2": [],
    "10": [("dog", (0, 1, 9, 20), 0)],
    "9": [("cat", (3, 3, 30, 8), 0), ("cat", (16, 9, 32, 24), 0)],
    "bee": [("dog", (2, 12, 21, 23), 0)],
}


@pytest.fixture
def voc(tmp_path: Path, write_voc: Writer) -> str:
    """Six pictures of noise, 32 x 24."""
    size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
    root = write_voc(tmp_path / "source", OBJECTS, size=size)
    rng = np.random.default_rng(5)
    for name in OBJECTS:
        pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.png")
    return f"voc://{root}?split=train"


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)
