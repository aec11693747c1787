"""STAC's strong view: what moves with boxes, what does not, and what is painted over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dre_ssod.data.views import stac
from dre_ssod.data.views.photometric import Image

BOXES = np.array([[10.0, 20.0, 40.0, 60.0], [60.0, 5.0, 90.0, 30.0]])


def noise(height: int = 80, width: int = 100) -> Image:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_move_in_a_box_leaves_everything_outside_of_it() -> None:
    image = noise()
    before = image.copy()
    boxes_seen = set()
    for seed in range(60):
        moved = stac.move_in_box(image, BOXES, np.random.default_rng(seed))
        changed = (moved != image).any(axis=2)
        inside = [changed[20:60, 10:40].any(), changed[5:30, 60:90].any()]
        assert sum(inside) <= 1
        boxes_seen |= {number for number, hit in enumerate(inside) if hit}
        outside = changed.copy()
        outside[20:60, 10:40] = outside[5:30, 60:90] = False
        assert not outside.any()
    assert boxes_seen == {0, 1}
    assert np.array_equal(image, before)


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), np.array([[-30.0, 5.0, -2.0, 40.0]])])
def test_without_a_box_in_the_image_nothing_moves(boxes: np.ndarray) -> None:
    image = noise()
    assert np.array_equal(stac.move_in_box(image, boxes, np.random.default_rng(0)), image)


def test_moves_are_bounded_and_all_four_are_drawn() -> None:
    rng = np.random.default_rng(0)
    kinds = {"x": 0, "y": 0, "rotation": 0, "shear": 0}
    slopes = []
    for _ in range(2000):
        matrix = stac.random_move(200, 100, 0.1, 30.0, rng)
        linear = matrix[:2, :2]
        if np.array_equal(linear, np.eye(2)):
            kinds["y" if matrix[1, 2] else "x"] += 1
            assert abs(matrix[0, 2]) <= 20
            assert abs(matrix[1, 2]) <= 10
            continue
        np.testing.assert_allclose(matrix @ [100, 50, 1], [100, 50, 1], atol=1e-9)
        is_rotation = np.allclose(linear @ linear.T, np.eye(2))
        kinds["rotation" if is_rotation else "shear"] += 1
        if not is_rotation:
            slopes.append(abs(linear[0, 1]))
    # Four standard deviations of a binomial, and whole shifts by 0.
    assert all(abs(count - 500) < 100 for count in kinds.values())
    assert 0.55 < max(slopes) <= np.tan(np.radians(30)) + 1e-9


def test_cutout_squares_have_one_side_or_none() -> None:
    image = np.zeros((100, 400, 3), np.uint8)
    areas = []
    for seed in range(400):
        painted = (stac.cut_out(image, np.random.default_rng(seed)) == 128).all(axis=2)
        areas.append(int(painted.sum()))
    assert 0 in areas
    # A single square wholly inside the image is the most frequent area but none.
    assert max(set(areas) - {0}, key=areas.count) == 400
    assert 1200 < max(areas) <= 2000
    # 1.5 squares are expected, some of them partly outside or over each other.
    assert 1.2 < np.mean(areas) / 400 < 1.5


def test_half_of_the_strong_views_move_as_a_whole() -> None:
    moved = 0
    for seed in range(200):
        image = noise(40, 60)
        view, matrix = stac.strengthen(image, BOXES, "RGB", np.random.default_rng(seed))
        assert view.shape == image.shape
        moved += not np.array_equal(matrix, np.eye(3))
    # A shift that is rounded to nothing does not count.
    assert 70 < moved < 125


def test_half_of_the_moves_take_the_nearest_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, list[bool]] = {"image": [], "box": []}

    def recorded(image: Image, *_: Any, nearest: bool) -> Image:
        taken["image" if image.shape == whole.shape else "box"].append(nearest)
        return image

    monkeypatch.setattr(stac, "warp", recorded)
    whole = noise()
    for seed in range(400):
        stac.strengthen(whole, BOXES, "RGB", np.random.default_rng(seed))
    # Four standard deviations of a binomial (400, 1/4).
    for nearest in taken.values():
        assert abs(sum(nearest) - 100) < 35
        assert abs(len(nearest) - 200) < 40
