"""Instant-Teaching's strong view: what happens to pixels, how often and how much; boxes stay."""

from __future__ import annotations

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from dre_ssod.data.views import instant_teaching
from dre_ssod.data.views.instant_teaching import change_pixels
from dre_ssod.data.views.photometric import Image
from dre_ssod.data.views.views import ViewRecipe, make_view

PLAIN = ViewRecipe((40, 60), "range", 100, "horizontal", "RGB", (0, 0, 0))
STEPS = {
    "cut_out": 0.5,
    "brighten": 0.2,
    "change_colors": 0.2,
    "compress": 0.2,
    "shuffle_channels": 0.2,
    "blur": 0.2,
}


def noise(height: int = 48, width: int = 64) -> Image:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8)


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def is_usual(hits: int, of: int, probability: float) -> bool:
    """Within four standard deviations of a binomial."""
    return abs(hits - of * probability) < 4 * (of * probability * (1 - probability)) ** 0.5


def test_each_step_comes_as_often_as_published_and_in_its_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    for name in STEPS:

        def step(image: Image, rng: np.random.Generator, name: str = name) -> Image:
            seen.append(name)
            return image

        monkeypatch.setattr(instant_teaching, name, step)
    image, order, every = noise(2, 2), list(STEPS), []
    for rng in rngs(1000):
        seen.clear()
        change_pixels(image, "RGB", rng)
        assert seen == sorted(seen, key=order.index)
        every += seen
    for name, probability in STEPS.items():
        assert is_usual(every.count(name), 1000, probability), name


def test_at_most_eight_black_squares_of_eight_pixels() -> None:
    image = np.full((90, 120, 3), 200, np.uint8)
    areas, single = [], 0
    for rng in rngs(200):
        cut = instant_teaching.cut_out(image, rng)
        black = (cut == 0).all(axis=2)
        assert ((cut == 200).all(axis=2) | black).all()
        areas.append(int(black.sum()))
        count, _, stats, _ = cv2.connectedComponentsWithStats(black.astype(np.uint8))
        assert count - 1 <= 8
        alone = stats[1:][stats[1:, cv2.CC_STAT_AREA] == 64]
        single += int((alone[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]] == 8).all(axis=1).sum())
    assert max(areas) == 8 * 64
    assert single > 400
    assert (image == 200).all()


def test_light_only_rises_by_a_tenth_to_three_tenths() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    factors, offsets = [], []
    for rng in rngs(300):
        changed = instant_teaching.brighten(ramp, rng)[0, :, 0].astype(int)
        offsets.append(changed[0] / 255)
        factors.append((changed[100] - changed[0]) / 100)
        assert (np.diff(changed) >= 0).all()
    # Values are cut off to whole ones.
    for found in (factors, offsets):
        low, high = (0.1, 0.3) if found is offsets else (1.1, 1.3)
        assert low - 0.011 < min(found) < low + 0.01
        assert high - 0.01 < max(found) < high + 0.011


def test_colors_shift_by_channel_or_in_hue_saturation_and_value() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:] = (200, 100, 60)
    hue, saturation, value = (int(n) for n in cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[0, 0])
    by_channel, turned, most = 0, [], 0
    for twin, rng in zip(rngs(400), rngs(400), strict=True):
        changed = instant_teaching.change_colors(image, rng)[:1, :1]
        if twin.random() < 0.5:
            by_channel += 1
            most = max(most, int(np.abs(changed.astype(int) - image[0, 0]).max()))
            assert most <= 10
            continue
        turned.append(cv2.cvtColor(changed, cv2.COLOR_RGB2HSV)[0, 0].astype(int))
    assert is_usual(by_channel, 400, 0.5)
    assert most >= 9
    # Two conversions round, and hue begins again after 180.
    change = np.array(turned) - (hue, saturation, value)
    change[:, 0] = (change[:, 0] + 90) % 180 - 90
    assert (np.abs(change) <= (22, 33, 21)).all()
    assert (change.min(axis=0) < (-15, -23, -15)).all()
    assert (change.max(axis=0) > (15, 23, 15)).all()


def test_jpeg_has_the_published_quality_and_hardly_changes_a_smooth_picture() -> None:
    rows, columns = np.mgrid[:64, :64]
    smooth = np.stack([rows * 3, columns * 2, rows + columns], axis=-1).astype(np.uint8)
    expected = set()
    for quality in range(85, 96):
        _, written = cv2.imencode(".jpg", smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        expected.add(cv2.imdecode(written, cv2.IMREAD_COLOR)[..., ::-1].tobytes())
    found = [instant_teaching.compress(smooth, rng) for rng in rngs(100)]
    assert {image.tobytes() for image in found} == expected
    assert all(np.abs(image.astype(int) - smooth).mean() < 4 for image in found)


def test_channels_come_in_all_six_orders() -> None:
    image = noise(3, 3)
    found = [instant_teaching.shuffle_channels(image, rng) for rng in rngs(60)]
    assert len({shuffled.tobytes() for shuffled in found}) == 6
    assert all(np.array_equal(np.sort(each, axis=2), np.sort(image, axis=2)) for each in found)


def test_blur_is_the_mean_or_the_median_of_nine_pixels() -> None:
    image = noise()
    mean, median = cv2.blur(image, (3, 3)).tobytes(), cv2.medianBlur(image, 3).tobytes()
    found = [instant_teaching.blur(image, rng).tobytes() for rng in rngs(100)]
    assert set(found) == {mean, median}
    assert is_usual(found.count(mean), 100, 0.5)


@pytest.mark.parametrize(("height", "width"), [(24, 30), (1, 1), (1, 9)])
def test_both_channel_orders_give_the_same_picture_and_none_is_changed_in_place(
    height: int, width: int
) -> None:
    rgb = noise(height, width)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    for first, second in zip(rngs(100), rngs(100), strict=True):
        one, other = change_pixels(rgb, "RGB", first), change_pixels(bgr, "BGR", second)
        assert np.array_equal(one, other[..., ::-1])
        assert one.shape == rgb.shape
        assert one.dtype == np.uint8
    assert np.array_equal(rgb, noise(height, width))
    assert np.array_equal(bgr[..., ::-1], rgb)


def test_a_view_keeps_its_geometry_and_is_a_function_of_its_generator() -> None:
    # A recipe must get to the processes that load images.
    recipe = pickle.loads(pickle.dumps(replace(PLAIN, pixels=change_pixels)))
    image, changed = noise(), 0
    for seed in range(30):
        plain = make_view(image, PLAIN, np.random.default_rng(seed))
        strong, again = (make_view(image, recipe, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(strong.matrix, plain.matrix)
        assert strong.size == plain.size
        assert torch.equal(strong.image, again.image)
        changed += not torch.equal(strong.image, plain.image)
    assert 15 < changed < 30
