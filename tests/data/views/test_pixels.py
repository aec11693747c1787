"""Unbiased Teacher's strong view: what happens to pixels, how often, and that boxes stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from dre_ssod.data.views import pixels
from dre_ssod.data.views.photometric import Image
from dre_ssod.data.views.pixels import (
    NoiseErasing,
    PixelRecipe,
    erase_with_noise,
    pixels_alone,
)
from dre_ssod.data.views.views import ViewRecipe, make_pair, make_view

NOTHING = PixelRecipe(jitter=0.0, gray=0.0, blur=0.0, erasing=())
RECIPE = ViewRecipe((40, 60), "range", 100, "horizontal", "RGB", (0, 0, 0))


def noise(height: int = 48, width: int = 64) -> Image:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_the_defaults_are_those_of_the_paper() -> None:
    recipe = PixelRecipe()
    assert (recipe.jitter, recipe.strength, recipe.hue) == (0.8, 0.4, 0.1)
    assert (recipe.gray, recipe.blur, recipe.sigma) == (0.2, 0.5, (0.1, 2.0))
    assert recipe.erasing == (
        NoiseErasing(0.7, (0.05, 0.2), (0.3, 3.3)),
        NoiseErasing(0.5, (0.02, 0.2), (0.1, 6.0)),
        NoiseErasing(0.3, (0.02, 0.2), (0.05, 8.0)),
    )


def test_without_operations_an_image_stays_as_it_is() -> None:
    image = noise()
    assert np.array_equal(NOTHING(image, "RGB", np.random.default_rng(0)), image)


@pytest.mark.parametrize(("field", "probability"), [("jitter", 0.8), ("gray", 0.2), ("blur", 0.5)])
def test_operations_come_as_often_as_they_should(field: str, probability: float) -> None:
    image = noise(16, 16)
    recipe = replace(NOTHING, **{field: probability})
    changed = sum(
        not np.array_equal(recipe(image, "RGB", np.random.default_rng(seed)), image)
        for seed in range(400)
    )
    # Four standard deviations of a binomial.
    assert abs(changed - 400 * probability) < 4 * (400 * probability * (1 - probability)) ** 0.5


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_hue_is_pillows_in_either_channel_order(image_format: str) -> None:
    image = noise()
    rgb = image if image_format == "RGB" else image[..., ::-1]
    hsv = np.array(PillowImage.fromarray(np.ascontiguousarray(rgb)).convert("HSV"))
    hsv[..., 0] += np.uint8(25)
    expected = np.array(PillowImage.fromarray(hsv, "HSV").convert("RGB"))
    turned = pixels.hue(image, 0.1, image_format)
    assert np.array_equal(turned if image_format == "RGB" else turned[..., ::-1], expected)


def test_gray_has_three_equal_channels() -> None:
    gray = replace(NOTHING, gray=1.0)(noise(), "BGR", np.random.default_rng(0))
    assert np.ptp(gray.astype(int), axis=2).max() <= 1


def test_a_rectangle_of_noise_has_the_area_and_aspect_that_were_drawn() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    areas, aspects = [], []
    for seed in range(200):
        erasing = NoiseErasing(1.0, (0.05, 0.2), (0.5, 2.0))
        erased = erase_with_noise(image, erasing, np.random.default_rng(seed))
        rows, columns, _ = erased.nonzero()
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        areas.append(height * width / 60_000)
        aspects.append(height / width)
    assert 0.048 < min(areas) < 0.06
    assert 0.19 < max(areas) < 0.202
    assert 0.48 < min(aspects) < 0.6
    assert 1.8 < max(aspects) < 2.05
    # Uniform in its logarithm: as often below as above 1.
    assert 70 < sum(aspect > 1 for aspect in aspects) < 130
    assert not image.any()


def test_noise_is_spread_over_all_values() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    erased = erase_with_noise(
        image, NoiseErasing(1.0, (0.5, 0.6), (0.9, 1.1)), np.random.default_rng(0)
    )
    values = erased[erased.any(axis=2)].ravel()
    counts = np.histogram(values, bins=8, range=(0, 256))[0] / len(values)
    assert counts.min() > 0.1
    assert counts.max() < 0.15


def test_a_rectangle_that_fits_nowhere_is_left_out() -> None:
    image = noise(4, 100)
    erasing = NoiseErasing(1.0, (0.5, 0.5), (8.0, 8.0))
    assert np.array_equal(erase_with_noise(image, erasing, np.random.default_rng(0)), image)


def test_a_pair_has_one_geometry_and_a_weak_view_without_changed_pixels() -> None:
    image = noise()
    weak, strong = make_pair(
        image, RECIPE, pixels_alone(PixelRecipe(), "RGB"), np.random.default_rng(3)
    )
    assert torch.equal(weak.matrix, strong.matrix)
    assert weak.size == strong.size
    assert not torch.equal(weak.image, strong.image)
    alone = make_view(image, RECIPE, np.random.default_rng(3).spawn(2)[0])
    assert torch.equal(weak.image, alone.image)
    assert torch.equal(weak.matrix, alone.matrix)
    same, other = make_pair(image, RECIPE, pixels_alone(NOTHING, "RGB"), np.random.default_rng(3))
    assert torch.equal(same.image, other.image)
