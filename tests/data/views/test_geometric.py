"""The matrix of a distortion is the map of its pixels, to a small part of a pixel."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dre_ssod.data.views.geometric import (
    GeometricRecipe,
    Matrix,
    random_distortion,
    rotation,
    shear,
    translation,
    warp,
)
from dre_ssod.data.views.photometric import Image

BLACK = (0, 0, 0)
RECIPE = GeometricRecipe(max_translate=0.1, max_rotate=30.0, max_shear=30.0)


def about_centre(linear: Matrix, width: int, height: int) -> Matrix:
    centre = translation(width / 2, height / 2)
    return centre @ linear @ np.linalg.inv(centre)


def blob(width: int, height: int, x: float, y: float, radius: float = 4.0) -> Image:
    """A Gaussian spot centred on the continuous point (x, y)."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))
    return np.repeat(np.rint(255 * spot).astype(np.uint8)[:, :, None], 3, axis=2)


def centroid(image: Image) -> tuple[float, float]:
    """The centre of mass, in continuous coordinates."""
    weight = image.astype(float).sum(axis=2)
    rows, columns = np.indices(weight.shape)
    total = weight.sum()
    return float(((columns + 0.5) * weight).sum() / total), float(
        ((rows + 0.5) * weight).sum() / total
    )


@pytest.mark.parametrize(
    "linear", [rotation(25.0), rotation(-30.0), shear(0.36, 0.0), shear(-0.27, 0.47)]
)
@pytest.mark.parametrize(("x", "y"), [(60.0, 50.0), (81.3, 63.8)])
def test_bright_spot_lands_where_the_matrix_says(linear: Matrix, x: float, y: float) -> None:
    matrix = about_centre(linear, 140, 110)
    warped = warp(blob(140, 110, x, y), matrix, BLACK)
    assert centroid(warped) == pytest.approx(tuple((matrix @ [x, y, 1.0])[:2]), abs=0.06)


def test_half_a_turn_is_the_array_turned_around() -> None:
    # With OpenCV's pixel centres taken for corners the result would be one pixel off.
    image = np.random.default_rng(0).integers(0, 256, (31, 44, 3), dtype=np.uint8)
    turned = warp(image, about_centre(rotation(180.0), 44, 31), BLACK)
    difference = np.abs(turned.astype(int) - image[::-1, ::-1].astype(int))
    assert difference.max() <= 1


def test_quarter_turn_of_a_square_goes_clockwise() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    turned = warp(image, about_centre(rotation(90.0), 24, 24), BLACK)
    difference = np.abs(turned.astype(int) - np.rot90(image, -1).astype(int))
    assert difference.max() <= 1


@pytest.mark.parametrize(
    ("x", "y"), [(5, 0), (-5, 0), (0, 7), (0, -7), (3, -4), (50, 0), (0, -40), (-70, 0), (0, 41)]
)
def test_translation_is_lossless_and_fills_what_comes_in(x: int, y: int) -> None:
    fill = (104, 116, 123)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = np.empty_like(image)
    expected[:] = fill
    if abs(x) < 50 and abs(y) < 40:
        expected[max(y, 0) : 40 + min(y, 0), max(x, 0) : 50 + min(x, 0)] = image[
            max(-y, 0) : 40 + min(-y, 0), max(-x, 0) : 50 + min(-x, 0)
        ]
    assert np.array_equal(warp(image, translation(x, y), fill), expected)


def test_result_of_another_size_shows_what_the_matrix_says() -> None:
    matrix = np.diag([2.0, 1.5, 1.0])
    warped = warp(blob(60, 50, 22.0, 31.0), matrix, BLACK, (75, 120))
    assert warped.shape == (75, 120, 3)
    assert centroid(warped) == pytest.approx((44.0, 46.5), abs=0.06)


def test_corners_of_a_rotated_view_are_filled_channel_by_channel() -> None:
    fill = (10, 116, 250)
    image = np.full((60, 60, 3), 200, np.uint8)
    turned = warp(image, about_centre(rotation(30.0), 60, 60), fill)
    assert tuple(turned[0, 0]) == fill
    assert tuple(turned[30, 30]) == (200, 200, 200)


def test_hand_computed_matrices() -> None:
    np.testing.assert_allclose(rotation(90.0) @ [1, 0, 1], [0, 1, 1], atol=1e-12)
    np.testing.assert_allclose(shear(1.0, 0.0) @ [0, 2, 1], [2, 2, 1], atol=1e-12)
    # In x first: (0, 1) goes to (1, 1), then in y to (1, 2).
    np.testing.assert_allclose(shear(1.0, 1.0) @ [0, 1, 1], [1, 2, 1], atol=1e-12)


def draws(count: int, recipe: GeometricRecipe = RECIPE) -> list[Matrix]:
    rng = np.random.default_rng(0)
    return [random_distortion(640, 480, recipe, rng) for _ in range(count)]


def kind_of(matrix: Matrix) -> str:
    if np.array_equal(matrix[:2, :2], np.eye(2)):
        return "x" if matrix[1, 2] == 0 else "y"
    linear = matrix[:2, :2]
    return "rotation" if np.allclose(linear @ linear.T, np.eye(2)) else "shear"


def test_the_four_operations_are_equally_likely() -> None:
    counts = dict.fromkeys(("x", "y", "rotation", "shear"), 0)
    for matrix in draws(4000):
        counts[kind_of(matrix)] += 1
    # Four standard deviations of a binomial (4000, 1/4); a shift by 0 counts as x.
    assert all(abs(count - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75) for count in counts.values())


def test_operations_stay_in_their_bounds_reach_them_and_keep_their_point() -> None:
    angles: list[float] = []
    shears: list[float] = []
    shifts: dict[str, list[float]] = {"x": [], "y": []}
    for matrix in draws(4000):
        assert np.linalg.det(matrix) == pytest.approx(1.0)
        kind = kind_of(matrix)
        if kind in shifts:
            shifts[kind].append(matrix[0 if kind == "x" else 1, 2])
            continue
        kept = [320, 240, 1] if kind == "rotation" else [0, 0, 1]
        np.testing.assert_allclose(matrix @ kept, kept, atol=1e-9)
        if kind == "rotation":
            angles.append(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])))
        else:
            shears.append(max(abs(matrix[0, 1]), abs(matrix[1, 0])))
    assert (min(shifts["x"]), max(shifts["x"])) == (-64, 64)
    assert (min(shifts["y"]), max(shifts["y"])) == (-48, 48)
    assert -30 <= min(angles) < -29
    assert 29 < max(angles) <= 30
    # tanh of 30 degrees.
    assert 0.47 < max(shears) <= 0.4805


def test_lone_shears_are_two_of_five_operations_by_the_tangent() -> None:
    drawn = draws(4000, replace(RECIPE, lone_shears=True))
    slopes = np.array([(m[0, 1], m[1, 0]) for m in drawn if kind_of(m) == "shear"])
    in_x, in_y = np.abs(slopes).T
    assert not (in_x * in_y).any()
    for lone in (in_x, in_y):
        # Four standard deviations of a binomial (4000, 1/5).
        assert abs(np.count_nonzero(lone) - 800) < 4 * math.sqrt(4000 * 0.2 * 0.8)
        assert 0.56 < lone.max() <= math.tan(math.radians(30)) + 1e-9
    assert all(np.allclose(m @ [0, 0, 1], [0, 0, 1]) for m in drawn if kind_of(m) == "shear")


def test_the_nearest_pixels_make_no_new_values() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:12, 8:20] = 200
    turned = rotation(20.0)
    assert set(np.unique(warp(image, turned, (0, 0, 0), nearest=True))) == {0, 200}
    assert len(np.unique(warp(image, turned, (0, 0, 0)))) > 2


def test_zero_strength_is_the_identity() -> None:
    for matrix in draws(50, GeometricRecipe(0.0, 0.0, 0.0)):
        np.testing.assert_allclose(matrix, np.eye(3), atol=1e-12)
