"""Pillow's definitions are the reference for every photometric operation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageEnhance, ImageOps

from dre_ssod.data.views import photometric
from dre_ssod.data.views.photometric import PHOTOMETRIC_OPS, Image, random_photometric

FACTORS = (0.0, 0.1, 0.37, 1.0, 1.5, 1.9)


def images() -> dict[str, Image]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (41, 57, 3), dtype=np.uint8)
    ramp = np.linspace(0, 1, 57)[None, :, None] * np.linspace(30, 200, 41)[:, None, None]
    smooth = (ramp * np.array([1.0, 0.6, 0.3]) + 20).astype(np.uint8)
    dull = rng.integers(90, 130, (300, 200, 3), dtype=np.uint8)
    return {
        "noise": noise,
        "smooth": smooth,
        "dull": dull,
        "one colour": np.full((12, 9, 3), (10, 120, 250), np.uint8),
        "black": np.zeros((8, 8, 3), np.uint8),
        "white": np.full((8, 8, 3), 255, np.uint8),
        "one pixel": np.full((1, 1, 3), (7, 70, 170), np.uint8),
        "one row": noise[:1].copy(),
    }


@pytest.fixture(params=images().items(), ids=lambda item: item[0])
def image(request: pytest.FixtureRequest) -> Image:
    return request.param[1]


def in_format(rgb: Image, image_format: str) -> Image:
    return rgb if image_format == "RGB" else np.ascontiguousarray(rgb[:, :, ::-1])


def difference(ours: Image, reference: PillowImage.Image) -> int:
    assert ours.dtype == np.uint8
    return int(np.abs(ours.astype(int) - np.asarray(reference).astype(int)).max())


@pytest.mark.parametrize(
    ("ours", "pillow"),
    [
        (photometric.autocontrast, ImageOps.autocontrast),
        (photometric.equalize, ImageOps.equalize),
    ],
)
def test_histogram_ops_equal_pillow(
    image: Image,
    ours: Callable[[Image], Image],
    pillow: Callable[[PillowImage.Image], PillowImage.Image],
) -> None:
    assert difference(ours(image), pillow(PillowImage.fromarray(image))) == 0


@pytest.mark.parametrize("threshold", [0, 1, 100, 128, 255, 256])
def test_solarize_equals_pillow(image: Image, threshold: int) -> None:
    reference = ImageOps.solarize(PillowImage.fromarray(image), threshold)
    assert difference(photometric.solarize(image, threshold), reference) == 0


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_equals_pillow(image: Image, bits: int) -> None:
    reference = ImageOps.posterize(PillowImage.fromarray(image), bits)
    assert difference(photometric.posterize(image, bits), reference) == 0


@pytest.mark.parametrize("bits", [0, 9])
def test_posterize_refuses_impossible_bits(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 8 bits"):
        photometric.posterize(np.zeros((2, 2, 3), np.uint8), bits)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    ("ours", "pillow"),
    [
        (photometric.brightness, ImageEnhance.Brightness),
        (photometric.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_enhancements_equal_pillow(
    image: Image,
    ours: Callable[[Image, float], Image],
    pillow: Callable[[PillowImage.Image], ImageEnhance._Enhance],
    factor: float,
) -> None:
    reference = pillow(PillowImage.fromarray(image)).enhance(factor)
    assert difference(ours(image, factor), reference) <= 1


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("ours", "pillow"),
    [
        (photometric.color, ImageEnhance.Color),
        (photometric.contrast, ImageEnhance.Contrast),
    ],
)
def test_enhancements_with_luma_equal_pillow_in_either_channel_order(
    image: Image,
    ours: Callable[[Image, float, str], Image],
    pillow: Callable[[PillowImage.Image], ImageEnhance._Enhance],
    image_format: str,
    factor: float,
) -> None:
    reference = pillow(PillowImage.fromarray(image)).enhance(factor)
    result = in_format(ours(in_format(image, image_format), factor, image_format), image_format)
    assert difference(result, reference) <= 1


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_factor_one_leaves_the_image(image: Image, image_format: str) -> None:
    assert np.array_equal(photometric.brightness(image, 1.0), image)
    assert np.array_equal(photometric.sharpness(image, 1.0), image)
    assert np.array_equal(photometric.color(image, 1.0, image_format), image)
    assert np.array_equal(photometric.contrast(image, 1.0, image_format), image)


def test_grey_of_pure_red_depends_on_the_channel_order() -> None:
    # Luma of red is 0.299 * 255 = 76, of blue 0.114 * 255 = 29.
    first_channel = np.zeros((4, 4, 3), np.uint8)
    first_channel[..., 0] = 255
    assert abs(int(photometric.color(first_channel, 0.0, "RGB")[0, 0, 0]) - 76) <= 1
    assert abs(int(photometric.color(first_channel, 0.0, "BGR")[0, 0, 0]) - 29) <= 1


def test_the_nine_operations_are_all_drawn_and_leave_their_input() -> None:
    assert len(PHOTOMETRIC_OPS) == 9
    image = images()["noise"]
    before = image.copy()
    results = {
        random_photometric(image, "RGB", np.random.default_rng(seed)).tobytes()
        for seed in range(200)
    }
    assert np.array_equal(image, before)
    assert len(results) > 40


@pytest.mark.parametrize("name", list(PHOTOMETRIC_OPS))
def test_each_operation_keeps_shape_and_type_and_its_input(name: str) -> None:
    image = images()["smooth"]
    before = image.copy()
    for strength in photometric.STRENGTHS:
        first = PHOTOMETRIC_OPS[name](image, "BGR", strength)
        assert first.shape == image.shape
        assert first.dtype == np.uint8
    assert np.array_equal(image, before)


def test_strengths_mean_what_they_do_in_soft_teacher() -> None:
    strengths = list(photometric.STRENGTHS)
    assert [photometric.posterize_bits(m) for m in strengths] == [4, 4, 3, 3, 2, 2, 2, 1, 1]
    thresholds = [25, 51, 76, 102, 128, 153, 179, 204, 230]
    assert [photometric.solarize_threshold(m) for m in strengths] == thresholds
    factors = [photometric.enhance_factor(m) for m in strengths]
    assert factors == pytest.approx([0.28, 0.46, 0.64, 0.82, 1.0, 1.18, 1.36, 1.54, 1.72])


def test_each_operation_takes_its_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[float]] = {"brightness": [], "posterize": [], "solarize": []}
    for name, kept in seen.items():
        monkeypatch.setattr(
            photometric, name, lambda image, strength, kept=kept: kept.append(strength)
        )
        for strength in photometric.STRENGTHS:
            PHOTOMETRIC_OPS[name](np.zeros((2, 2, 3), np.uint8), "RGB", strength)
    assert seen["brightness"] == [photometric.enhance_factor(m) for m in photometric.STRENGTHS]
    assert seen["posterize"] == [photometric.posterize_bits(m) for m in photometric.STRENGTHS]
    assert seen["solarize"] == [photometric.solarize_threshold(m) for m in photometric.STRENGTHS]


def test_every_strength_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    for name in PHOTOMETRIC_OPS:
        monkeypatch.setitem(PHOTOMETRIC_OPS, name, lambda image, order, m: drawn.append(m))
    for seed in range(300):
        random_photometric(np.zeros((2, 2, 3), np.uint8), "RGB", np.random.default_rng(seed))
    assert set(drawn) == set(photometric.STRENGTHS)


def test_unknown_channel_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"YUV-BT\.601.*RGB.*BGR"):
        random_photometric(np.zeros((2, 2, 3), np.uint8), "YUV-BT.601", np.random.default_rng(0))
