"""Views: pixels and boxes follow the same map, and look like what Detectron2 shows at test time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import (
    HFlipTransform,
    ResizeShortestEdge,
    ResizeTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from dre_ssod.config.keys import get_cfg
from dre_ssod.data.views import views
from dre_ssod.data.views.geometric import GeometricRecipe, warp
from dre_ssod.data.views.photometric import Image
from dre_ssod.data.views.views import EraseRecipe, ViewRecipe, erase_patches, make_view, resize
from dre_ssod.structures import View

FILL = (104, 116, 123)
PLAIN = ViewRecipe((60, 60), "range", 1000, "none", "BGR", FILL)
GEOMETRIC = GeometricRecipe(0.1, 30.0, 30.0)


def noise(height: int = 48, width: int = 64) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def draw(image: Image, recipe: ViewRecipe, seed: int = 0) -> View:
    return make_view(image, recipe, np.random.default_rng(seed))


def array_of(view: View) -> Image:
    return view.image.numpy().transpose(1, 2, 0)


def spot_centre(view: View) -> tuple[float, float]:
    """Centre of mass of what is brighter than black, in continuous coordinates."""
    weight = view.image.double().sum(0)
    rows = torch.arange(weight.shape[0]) + 0.5
    columns = torch.arange(weight.shape[1]) + 0.5
    return (
        float((weight.sum(0) * columns).sum() / weight.sum()),
        float((weight.sum(1) * rows).sum() / weight.sum()),
    )


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
@pytest.mark.parametrize("geometric", [None, GEOMETRIC])
@pytest.mark.parametrize("short_sides", [(40, 80), (90, 260)])
def test_bright_spot_lands_where_the_matrix_says(
    short_sides: tuple[int, int], geometric: GeometricRecipe | None, flip: str
) -> None:
    x, y = 93.0, 61.0
    columns, rows = np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5)
    spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 5.0**2))
    image = np.repeat(np.rint(255 * spot).astype(np.uint8)[:, :, None], 3, axis=2)
    recipe = replace(PLAIN, short_sides=short_sides, flip=flip, geometric=geometric, fill=(0, 0, 0))
    for seed in range(25):
        view = draw(image, recipe, seed)
        expected = (view.matrix @ torch.tensor([x, y, 1.0], dtype=torch.float64))[:2]
        # The centre of mass of a rounded, interpolated spot is good to a tenth of a pixel.
        assert spot_centre(view) == pytest.approx(expected.tolist(), abs=0.1)


@pytest.mark.parametrize(
    ("height", "width"), [(48, 64), (64, 48), (50, 50), (480, 20), (333, 501), (3, 900)]
)
@pytest.mark.parametrize("short_side", [24, 60, 97])
def test_size_is_that_of_detectron2(height: int, width: int, short_side: int) -> None:
    recipe = replace(PLAIN, short_sides=(short_side,), sampling="choice", max_size=160)
    view = draw(noise(height, width), recipe)
    expected = ResizeShortestEdge.get_output_shape(height, width, short_side, 160)
    assert view.size == tuple(max(side, 1) for side in expected)
    scale = [view.size[1] / width, view.size[0] / height, 1.0]
    torch.testing.assert_close(view.matrix, torch.diag(torch.tensor(scale, dtype=torch.float64)))


@pytest.mark.parametrize(("height", "width"), [(20, 27), (37, 50), (47, 64), (48, 64), (48, 63)])
def test_shrunk_image_is_that_of_detectron2(height: int, width: int) -> None:
    expected = ResizeTransform(48, 64, height, width).apply_image(noise())
    difference = np.abs(resize(noise(), height, width).astype(int) - expected.astype(int))
    assert difference.max() <= 1


@pytest.mark.parametrize(("height", "width"), [(49, 65), (96, 128), (151, 201)])
def test_enlarged_image_is_that_of_detectron2(height: int, width: int) -> None:
    expected = ResizeTransform(48, 64, height, width).apply_image(noise())
    difference = np.abs(resize(noise(), height, width).astype(int) - expected.astype(int))
    # Each of the two passes of either library rounds once.
    assert difference.max() <= 2


def test_shrinking_does_not_alias() -> None:
    checkerboard = np.zeros((120, 120, 3), np.uint8)
    checkerboard[::2, ::2] = checkerboard[1::2, 1::2] = 255
    assert np.abs(resize(checkerboard, 41, 41)[2:-2, 2:-2].astype(int) - 127).max() <= 40


def test_range_draws_every_length_and_choice_only_those_named() -> None:
    image = noise(20, 30)
    ranged = replace(PLAIN, short_sides=(10, 14))
    assert {draw(image, ranged, seed).size[0] for seed in range(100)} == {10, 11, 12, 13, 14}
    chosen = replace(PLAIN, short_sides=(10, 14, 31), sampling="choice")
    assert {draw(image, chosen, seed).size[0] for seed in range(100)} == {10, 14, 31}


@pytest.mark.parametrize(("height", "width"), [(20, 30), (30, 20), (3, 300)])
def test_a_long_side_is_uniform_between_the_two_whatever_the_other_sizes(
    height: int, width: int
) -> None:
    recipe = replace(PLAIN, short_sides=(77, 77), max_size=41, long_sides=(8, 40))
    views = [draw(noise(height, width), recipe, seed) for seed in range(660)]
    longest = [max(view.size) for view in views]
    # Four standard deviations of a binomial.
    assert all(abs(longest.count(side) - 20) < 18 for side in range(8, 41))
    assert (min(longest), max(longest)) == (8, 40)
    for view in views:
        assert min(view.size) == max(
            round(max(view.size) * min(height, width) / max(height, width)), 1
        )
        expected = [view.size[1] / width, view.size[0] / height]
        assert view.matrix.diagonal()[:2].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_matrix_is_that_of_detectron2s_transforms(flip: str) -> None:
    transform = {"horizontal": HFlipTransform(64), "vertical": VFlipTransform(48)}[flip]
    corners = np.array([[0.0, 0.0], [64.0, 0.0], [13.0, 48.0]])
    recipe = replace(PLAIN, short_sides=(24, 90), flip=flip)
    for seed in range(20):
        view = draw(noise(), recipe, seed)
        steps: list[Transform] = [ResizeTransform(48, 64, *view.size)]
        if min(view.matrix[0, 0], view.matrix[1, 1]) < 0:
            steps.insert(0, transform)
        expected = TransformList(steps).apply_coords(corners.copy())
        mapped = np.column_stack([corners, np.ones(3)]) @ view.matrix.numpy().T
        np.testing.assert_allclose(mapped[:, :2], expected, rtol=1e-5)


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
@pytest.mark.parametrize("short_sides", [(60, 60), (90, 140), (30, 45)])
def test_one_warp_shows_what_the_steps_one_by_one_would(
    short_sides: tuple[int, int], flip: str
) -> None:
    # Smooth, so that two interpolations lose hardly more than one.
    rows, columns = np.meshgrid(np.linspace(0, 3, 48), np.linspace(0, 4, 64), indexing="ij")
    wave = 127 + 100 * np.sin(rows) * np.cos(columns)
    image = np.repeat(wave.astype(np.uint8)[:, :, None], 3, axis=2)
    recipe = replace(PLAIN, short_sides=short_sides, flip=flip, geometric=GEOMETRIC)
    for seed in range(30):
        view = draw(image, recipe, seed)
        plain = draw(image, replace(recipe, geometric=None), seed)
        distortion = view.matrix.numpy() @ np.linalg.inv(plain.matrix.numpy())
        distortion = distortion.round(9)  # so that a shift by whole pixels is one
        expected = warp(array_of(plain).copy(), distortion, FILL)
        # At the edge of the image, one interpolation fades to the fill otherwise than two.
        inside = warp(np.full_like(expected, 255), distortion, (0, 0, 0)).min(axis=2) == 255
        inside = cv2.erode(np.pad(inside, 5).astype(np.uint8), np.ones((9, 9)))[5:-5, 5:-5] == 1
        assert inside.mean() > 0.2
        difference = np.abs(array_of(view).astype(int) - expected.astype(int))[inside]
        assert difference.max() <= 3


@pytest.mark.parametrize(("flip", "axis"), [("horizontal", 2), ("vertical", 1)])
def test_half_of_the_views_are_flipped(flip: str, axis: int) -> None:
    image = noise(60, 80)
    upright = torch.from_numpy(image.transpose(2, 0, 1).copy())
    recipe = replace(PLAIN, flip=flip)
    flipped = 0
    for seed in range(400):
        view = draw(image, recipe, seed)
        mirrored = bool(view.matrix[2 - axis, 2 - axis] < 0)
        assert torch.equal(view.image, upright.flip(axis) if mirrored else upright)
        flipped += mirrored
    assert 160 < flipped < 240


def test_hand_computed_matrix_of_a_flipped_view() -> None:
    # 64 x 48 to 80 x 60: scale 1.25, then x -> 80 - x.
    recipe = replace(PLAIN, flip="horizontal")
    mirrored = [
        view
        for view in (draw(noise(), recipe, seed) for seed in range(20))
        if view.matrix[0, 0] < 0
    ]
    expected = torch.tensor([[-1.25, 0, 80], [0, 1.25, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(mirrored[0].matrix, expected)


def strong_recipe() -> ViewRecipe:
    return ViewRecipe.strong(small_config())


def small_config() -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (40, 120)
    return cfg


def test_same_generator_same_view_other_generator_other_view() -> None:
    recipe = strong_recipe()
    for seed in range(10):
        first, second = draw(noise(), recipe, seed), draw(noise(), recipe, seed)
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.matrix, second.matrix)
    assert len({draw(noise(), recipe, seed).image.numpy().tobytes() for seed in range(20)}) == 20


def test_input_is_left_alone_and_shares_no_memory() -> None:
    image, before = noise(), noise()
    for recipe in (replace(PLAIN, short_sides=(48, 48)), strong_recipe()):
        for seed in range(30):
            draw(image, recipe, seed).image.fill_(7)
    assert np.array_equal(image, before)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (1, 40), (40, 1), (1, 1)])
def test_view_is_contiguous_planes_of_uint8(height: int, width: int) -> None:
    recipe = replace(PLAIN, short_sides=(height,) * 2 if height < width else (width,) * 2)
    view = draw(noise(height, width), recipe)
    assert view.image.dtype == torch.uint8
    assert view.image.is_contiguous()
    assert view.matrix.dtype == torch.float64
    assert np.array_equal(array_of(view), noise(height, width))


def test_photometric_and_geometric_come_in_either_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "random_photometric", lambda image, *_: image // 2)
    recipe = replace(
        PLAIN, photometric=True, geometric=GeometricRecipe(0.0, 180.0, 60.0), fill=(200, 200, 200)
    )
    corners = [int(draw(noise(), recipe, seed).image[:, 0, 0].max()) for seed in range(200)]
    # Filled after the image was darkened: 200; before: 100. Others show the image itself.
    assert corners.count(200) > 20
    assert corners.count(100) > 20


def test_patches_are_erased_within_number_and_size() -> None:
    recipe = EraseRecipe(count=(1, 4), size=(0.0, 0.2))
    image = np.zeros((100, 150, 3), np.uint8)
    areas = []
    for seed in range(300):
        erased = image.copy()
        erase_patches(erased, recipe, FILL, np.random.default_rng(seed))
        painted = (erased == FILL).all(axis=2)
        assert ((erased == 0).all(axis=2) | painted).all()
        areas.append(int(painted.sum()))
    assert max(areas) <= 4 * 20 * 30
    assert max(areas) > 2 * 20 * 30


def test_one_patch_of_fixed_size_has_the_shape_of_the_view_and_gets_everywhere() -> None:
    recipe = EraseRecipe(count=(1, 1), size=(0.2, 0.2))
    reached = np.zeros((50, 70), bool)
    for seed in range(2000):
        image = np.zeros((50, 70, 3), np.uint8)
        erase_patches(image, recipe, FILL, np.random.default_rng(seed))
        erased = image.any(axis=2)
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        assert (len(rows), len(columns), int(erased.sum())) == (10, 14, 140)
        reached |= erased
    # A corner is reached by one position of 41 * 57 alone, so corners may be missed.
    assert reached.mean() > 0.99
    assert reached[[0, -1]].any(axis=1).all()
    assert reached[:, [0, -1]].any(axis=0).all()


def test_no_patch_when_the_count_is_zero() -> None:
    recipe = replace(PLAIN, erase=EraseRecipe((0, 0), (0.1, 0.2)))
    assert torch.equal(draw(noise(), recipe).image, draw(noise(), PLAIN).image)


def test_recipes_of_the_config() -> None:
    cfg = get_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    weak, labeled, strong = (
        make(cfg) for make in (ViewRecipe.weak, ViewRecipe.labeled, ViewRecipe.strong)
    )
    assert weak == ViewRecipe((400, 1200), "range", 1333, "horizontal", "RGB", (124, 116, 104))
    assert labeled == replace(weak, photometric=True)
    assert strong == replace(
        weak, photometric=True, geometric=GEOMETRIC, erase=EraseRecipe((1, 4), (0.0, 0.2))
    )


def test_switches_of_the_config() -> None:
    cfg = get_cfg()
    cfg.SSOD.LABELED_VIEW.PHOTOMETRIC = False
    cfg.SSOD.STRONG_VIEW.PHOTOMETRIC = False
    cfg.SSOD.STRONG_VIEW.GEOMETRIC = False
    cfg.SSOD.STRONG_VIEW.ERASE_COUNT = (2, 3)
    assert ViewRecipe.labeled(cfg) == ViewRecipe.weak(cfg)
    strong = ViewRecipe.strong(cfg)
    assert (strong.photometric, strong.geometric) == (False, None)
    assert strong.long_sides is None
    cfg.SSOD.STRONG_VIEW.LONG_SIDES = (205, 1843)
    sizes: dict[str, Any] = {"long_sides": (205, 1843), "max_size": 1843}
    assert ViewRecipe.strong(cfg) == replace(strong, **sizes)
    assert ViewRecipe.labeled(cfg) == ViewRecipe.weak(cfg)
    cfg.SSOD.LABELED_VIEW.LONG_SIDES = (205, 1843)
    assert ViewRecipe.labeled(cfg) == replace(ViewRecipe.weak(cfg), **sizes)
    assert strong.erase == EraseRecipe((2, 3), (0.0, 0.2))
