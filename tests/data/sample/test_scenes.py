"""Scenes of the sample set: boxes enclose what was drawn, and enough of every object is seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dre_ssod.data.sample import scenes as sample_scenes
from dre_ssod.data.sample.scenes import MAX_OBJECTS, Scene, draw_scene
from dre_ssod.data.sample.shapes import HEIGHT, SUBPIXELS, WIDTH, PlacedShape, RandomStream


def square_shape(left: int, top: int, side: int, category: int | None = 0) -> PlacedShape:
    """A filled square of whole pixels."""
    mask = np.ones((side * SUBPIXELS, side * SUBPIXELS), dtype=np.bool_)
    return PlacedShape(category, left, top, side // 2, mask)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(RandomStream(11, number), allow_empty=True) for number in range(60)]


def test_boxes_are_clipped_to_the_image_but_not_by_occlusion() -> None:
    arrangement = sample_scenes._Arrangement()
    assert arrangement.place(square_shape(-10, 20, 40))
    assert arrangement.place(square_shape(20, 40, 30, category=1))
    first, second = arrangement.objects()
    assert first.box == (0, 20, 30, 60)
    # 30 x 40 pixels are in the image, of which the second hides 10 x 20.
    assert first.visible_area == 30 * 40 - 10 * 20
    assert (second.category, second.box, second.visible_area) == (1, (20, 40, 50, 70), 900)


def test_truncated_object_counts_against_its_whole_area() -> None:
    """Of 40 columns 13 are seen: 32.5 %, under the limit; with 14, 35 %, at it."""
    assert not sample_scenes._Arrangement().place(square_shape(-27, 0, 40))
    assert sample_scenes._Arrangement().place(square_shape(-26, 0, 40))


def test_an_item_that_hides_another_is_refused_without_a_trace() -> None:
    arrangement = sample_scenes._Arrangement()
    assert arrangement.place(square_shape(50, 50, 20))
    before = arrangement.objects()
    assert not arrangement.place(square_shape(45, 45, 30, category=None))
    assert arrangement.objects() == before
    # The same again after refusal, now beside it.
    assert arrangement.place(square_shape(70, 50, 20))
    assert arrangement.objects()[0] == before[0]


def test_clutter_is_no_object_and_may_be_hidden() -> None:
    arrangement = sample_scenes._Arrangement()
    assert arrangement.place(square_shape(50, 50, 10, category=None))
    assert arrangement.place(square_shape(45, 45, 20))
    assert len(arrangement.objects()) == 1


def test_boxes_that_nearly_coincide_are_refused() -> None:
    """Shifted by 13 of 40 columns the IoU is 27/53 = 51 %, by 26 it is 14/66 = 21 %."""
    arrangement = sample_scenes._Arrangement()
    assert arrangement.place(square_shape(20, 20, 40))
    assert not arrangement.place(square_shape(33, 20, 40))
    assert arrangement.place(square_shape(46, 20, 40))


def test_scenes_hold_what_they_promise(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (HEIGHT, WIDTH, 3)
        assert scene.image.dtype == np.uint8
        assert len(scene.objects) <= MAX_OBJECTS
        for a, b in itertools.combinations([item.box for item in scene.objects], 2):
            width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
            common = max(width, 0) * max(height, 0)
            total = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
            assert common <= 0.46 * (total - common)
    assert any(not scene.objects for scene in scenes)


def test_scenes_are_never_empty_unless_allowed() -> None:
    for number in range(40):
        assert draw_scene(RandomStream(12, number), allow_empty=False).objects


def test_boxes_enclose_the_painted_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paint every object, sharp and white on black: the box of the white pixels is the true box."""

    def silhouette(stream: RandomStream, items: list[PlacedShape]) -> object:
        captured.append(items)
        return np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)

    captured: list[list[PlacedShape]] = []
    monkeypatch.setattr(sample_scenes, "paint", silhouette)
    for number in range(30):
        scene = draw_scene(RandomStream(13, number), allow_empty=False)
        objects = [item for item in captured[-1] if item.category is not None]
        for item, truth in zip(objects, scene.objects, strict=True):
            canvas = np.zeros((3 * HEIGHT, 3 * WIDTH))
            coverage = item.coverage()
            top, left = item.top + HEIGHT, item.left + WIDTH
            canvas[top : top + coverage.shape[0], left : left + coverage.shape[1]] = coverage
            rows, columns = np.nonzero(canvas[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH])
            extents = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            for whole, exact, sign in zip(extents, truth.box, (1, 1, -1, -1), strict=True):
                assert 0 <= sign * (exact - whole) < 1
