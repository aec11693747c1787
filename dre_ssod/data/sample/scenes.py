"""Scenes of the built-in sample set: which shapes stand where, and what can be seen of them.

Color and texture say nothing about the class. Some objects are blurred, moved, or faded on one
side, and many hide behind others, so that some edges of their true boxes cannot be told from the
picture.

Legend: H, W image height and width in pixels; subpixels are quarters of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dre_ssod.data.sample.painting import paint
from dre_ssod.data.sample.shapes import (
    CLUTTER,
    HEIGHT,
    SHAPES,
    SUBPIXELS,
    WIDTH,
    BoolArray,
    PlacedShape,
    RandomStream,
    draw_shape,
    overlap_with_image,
)

MAX_OBJECTS = 8
MIN_VISIBLE_PERCENT = 35
MAX_BOX_IOU_PERCENT = 45
MIN_BOX_SIDE = 7 * SUBPIXELS

_PLACEMENT_TRIES = 12
_NOBODY = -1


@dataclass(frozen=True)
class SceneObject:
    """One annotated object: class index, box (x1, y1, x2, y2) and visible area, in pixels.

    The box encloses the sharp, unhidden shape, clipped to the image, exact to a quarter of a pixel.
    """

    category: int
    box: tuple[float, float, float, float]
    visible_area: float


@dataclass(frozen=True)
class Scene:
    """An image (H, W, 3), uint8 RGB, and what is on it."""

    image: npt.NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


def draw_scene(stream: RandomStream, allow_empty: bool) -> Scene:
    """Arrange and paint a scene of 1 to MAX_OBJECTS objects, or 0 if ``allow_empty``."""
    arrangement = _Arrangement()
    for _ in range(stream.integer(0, 5)):
        arrangement.place(_clutter(stream, len(CLUTTER)))
    wanted = 0 if allow_empty and stream.chance(6) else stream.integer(1, MAX_OBJECTS + 1)
    while arrangement.object_count == 0 < wanted:
        for _ in range(wanted):
            _place_object(stream, arrangement)
    for _ in range(stream.integer(0, 3)):
        arrangement.place(_clutter(stream, 1))
    return Scene(paint(stream, arrangement.items), arrangement.objects())


def _clutter(stream: RandomStream, kinds: int) -> PlacedShape:
    """A shape without a class, out of the first ``kinds`` of CLUTTER."""
    shape = CLUTTER[stream.integer(0, kinds)]
    return draw_shape(stream, None, shape, stream.integer(6, 26) * SUBPIXELS)


def _place_object(stream: RandomStream, arrangement: _Arrangement) -> None:
    shapes = list(SHAPES.values())
    category = stream.integer(0, len(shapes))
    for _ in range(_PLACEMENT_TRIES):
        radius = min(stream.integer(60, 172), stream.integer(60, 172))
        if arrangement.place(draw_shape(stream, category, shapes[category], radius)):
            return


class _Arrangement:
    """Items from back to front, and which of them is seen at each subpixel."""

    def __init__(self) -> None:
        self.items: list[PlacedShape] = []
        self._boxes: list[tuple[int, int, int, int]] = []
        self._visible: list[int] = []
        self._seen = np.full((HEIGHT * SUBPIXELS, WIDTH * SUBPIXELS), _NOBODY, dtype=np.int16)

    @property
    def object_count(self) -> int:
        return sum(item.category is not None for item in self.items)

    def place(self, item: PlacedShape) -> bool:
        """Put an item in front, unless too little of an object would be left to see."""
        target, source = overlap_with_image(item.left, item.top, item.mask.shape, SUBPIXELS)
        mask, seen = item.mask[source], self._seen[target]
        visible = int(np.count_nonzero(mask))
        if visible == 0:
            return False
        hidden = np.bincount(seen[mask] + 1, minlength=len(self.items) + 1)[1:]
        remaining = [before - int(loss) for before, loss in zip(self._visible, hidden, strict=True)]
        box = _mask_box(mask, target)
        candidates = zip([*self.items, item], [*remaining, visible], strict=True)
        if not all(_is_visible(other, count) for other, count in candidates):
            return False
        if item.category is not None and not self._box_fits(box):
            return False
        self._visible = [*remaining, visible]
        seen[mask] = len(self.items)
        self.items.append(item)
        self._boxes.append(box)
        return True

    def objects(self) -> tuple[SceneObject, ...]:
        return tuple(
            SceneObject(item.category, _in_pixels(box), visible / SUBPIXELS**2)
            for item, box, visible in zip(self.items, self._boxes, self._visible, strict=True)
            if item.category is not None
        )

    def _box_fits(self, box: tuple[int, int, int, int]) -> bool:
        """Whether a box is large enough and apart enough from those of the other objects."""
        if min(box[2] - box[0], box[3] - box[1]) < MIN_BOX_SIDE:
            return False
        return all(
            item.category is None or _overlap_percent(box, other) <= MAX_BOX_IOU_PERCENT
            for item, other in zip(self.items, self._boxes, strict=True)
        )


def _is_visible(item: PlacedShape, visible: int) -> bool:
    return item.category is None or 100 * visible >= MIN_VISIBLE_PERCENT * item.area


def _mask_box(mask: BoolArray, target: tuple[slice, slice]) -> tuple[int, int, int, int]:
    """Extents (x1, y1, x2, y2) in subpixels of the image of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = target[0].start, target[1].start
    return (
        left + int(columns[0]),
        top + int(rows[0]),
        left + int(columns[-1]) + 1,
        top + int(rows[-1]) + 1,
    )


def _overlap_percent(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    """Intersection over union of two boxes, in whole percent."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    total = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return 100 * common // (total - common)


def _in_pixels(box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    return (box[0] / SUBPIXELS, box[1] / SUBPIXELS, box[2] / SUBPIXELS, box[3] / SUBPIXELS)
