"""MUM: tiles that change images and come back, and the ramp of the teacher's average."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dre_ssod.errors import ConfigError
from dre_ssod.methods import Clock, build_method
from dre_ssod.methods.unbiased.mum import MUM, Tiles, draw_exchange, exchange_tiles, unmix
from dre_ssod.methods.unbiased.unbiased_teacher import UnbiasedTeacher
from dre_ssod.modeling.student_batch import StudentBatch
from tests.engine.steps import SAMPLE_ALL, make_trainer, run
from tests.engine.steps import batch as make_batch
from tests.factories import labeled_image, tiny_cfg

SIZE = (64, 96)


def _maps(images: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(images, 5, *size, generator=torch.Generator().manual_seed(seed))


def _back(permutation: Tensor) -> Tensor:
    return permutation.argsort(dim=1)


def _tiles(maps: Tensor, tiles: int) -> list[list[list[Tensor]]]:
    """Tile (i, j) of every image, cut by hand: [image][i][j]."""
    height, width = maps.shape[-2] // tiles, maps.shape[-1] // tiles
    return [
        [
            [
                image[:, i * height : (i + 1) * height, j * width : (j + 1) * width]
                for j in range(tiles)
            ]
            for i in range(tiles)
        ]
        for image in maps
    ]


@pytest.mark.parametrize(("images", "group", "tiles"), [(4, 4, 4), (8, 4, 2), (6, 3, 1), (4, 1, 4)])
def test_unmixing_undoes_mixing_bit_for_bit(images: int, group: int, tiles: int) -> None:
    maps = _maps(images)
    permutation = draw_exchange(images // group, group, tiles)
    mixed = exchange_tiles(maps, permutation)
    assert torch.equal(exchange_tiles(mixed, _back(permutation)), maps)
    assert torch.equal(unmix(mixed, _back(permutation)), maps)
    # One image a group is no mixture; one tile is: whole images change places.
    assert torch.equal(mixed, maps) == (group == 1)


def test_a_mixed_tile_is_that_of_the_image_that_the_permutation_names() -> None:
    torch.manual_seed(0)
    maps, permutation = _maps(8), draw_exchange(2, 4, 4)
    before, after = _tiles(maps, 4), _tiles(exchange_tiles(maps, permutation), 4)
    for number in range(8):
        group, place = divmod(number, 4)
        for i in range(4):
            for j in range(4):
                source = 4 * group + int(permutation[group, place, i, j])
                assert torch.equal(after[number][i][j], before[source][i][j])


def test_every_place_holds_a_permutation_of_its_group() -> None:
    torch.manual_seed(0)
    permutation = draw_exchange(3, 4, 8)
    assert permutation.shape == (3, 4, 8, 8)
    ordered = permutation.sort(dim=1).values
    assert torch.equal(ordered, torch.arange(4)[None, :, None, None].expand(3, 4, 8, 8))
    # A quarter of the tiles stay where they are on average.
    places = torch.arange(4)[None, :, None, None]
    stay = (draw_exchange(500, 4, 4) == places).float().mean().item()
    assert stay == pytest.approx(0.25, abs=0.02)


def test_features_of_a_pointwise_network_are_those_of_the_plain_images() -> None:
    network = nn.Sequential(nn.Conv2d(5, 7, 1), nn.ReLU(), nn.Conv2d(7, 3, 1))
    maps, permutation = _maps(4), draw_exchange(1, 4, 4)
    unmixed = unmix(network(exchange_tiles(maps, permutation)), _back(permutation))
    torch.testing.assert_close(unmixed, network(maps))


def test_gradients_come_back_to_the_pixels_that_they_are_for() -> None:
    maps, permutation = _maps(4).requires_grad_(), draw_exchange(1, 4, 4)
    weights = _maps(4, seed=1)
    (weights * unmix(exchange_tiles(maps, permutation), _back(permutation))).sum().backward()
    assert maps.grad is not None
    assert torch.equal(maps.grad, weights)


@pytest.mark.parametrize("size", [(13, 21), (16, 21), (2, 3), (1, 1)])
def test_a_map_that_tiles_do_not_divide_keeps_its_shape(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    back = draw_exchange(1, 4, 4)
    assert unmix(_maps(4, size), back).shape == (4, 5, *size)
    constant = torch.full((4, 5, *size), 0.7)
    torch.testing.assert_close(unmix(constant, back), constant)


def test_such_a_map_keeps_its_number_format_under_the_autocast_of_a_gpu() -> None:
    """PyTorch resizes in float32 there, and levels of two formats cannot be pooled together."""
    torch.set_autocast_enabled("cuda", True)
    try:
        with FakeTensorMode():
            maps = torch.empty(4, 8, 7, 10, device="cuda", dtype=torch.float16)
            unmixed = unmix(maps, torch.empty(2, 2, 4, 4, dtype=torch.int64))
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert (unmixed.dtype, unmixed.shape) == (torch.float16, maps.shape)


def test_such_a_map_is_resized_unmixed_and_resized_back() -> None:
    torch.manual_seed(0)
    maps, back = _maps(4, (13, 21)), draw_exchange(1, 4, 4)
    fitted = nn.functional.interpolate(maps, (12, 20), mode="bilinear", align_corners=False)
    tiles = _tiles(fitted, 4)
    moved = torch.stack(
        [
            torch.cat(
                [
                    torch.cat([tiles[int(back[0, n, i, j])][i][j] for j in range(4)], dim=2)
                    for i in range(4)
                ],
                dim=1,
            )
            for n in range(4)
        ]
    )
    expected = nn.functional.interpolate(moved, (13, 21), mode="bilinear", align_corners=False)
    torch.testing.assert_close(unmix(maps, back), expected)


# In a batch


def _batch(labeled: int) -> StudentBatch:
    return StudentBatch([labeled_image(number) for number in range(labeled)])


def test_labeled_images_and_what_remains_of_the_views_stay() -> None:
    torch.manual_seed(0)
    maps = _maps(2 + 6)[:, :3]
    mixer = Tiles(tiles=4, group=4)
    images = mixer.images(ImageList(maps.clone(), [SIZE] * 8), _batch(2)).tensor
    assert torch.equal(images[:2], maps[:2])
    assert torch.equal(images[6:], maps[6:])
    assert not torch.equal(images[2:6], maps[2:6])
    levels = {"p2": _maps(8, (16, 24)), "p6": _maps(8, (5, 7))}
    unmixed = mixer.features(levels, _batch(2))
    for name, level in levels.items():
        assert unmixed[name].shape == level.shape
        for rows in (slice(0, 2), slice(6, 8)):
            assert torch.equal(unmixed[name][rows], level[rows])
        assert not torch.equal(unmixed[name][2:6], level[2:6])


def test_features_are_put_back_as_the_images_were_exchanged() -> None:
    torch.manual_seed(0)
    maps = _maps(1 + 8)
    mixer = Tiles(tiles=4, group=4)
    mixed = mixer.images(ImageList(maps.clone(), [SIZE] * 9), _batch(1))
    unmixed = mixer.features({"p2": mixed.tensor, "p3": 2 * mixed.tensor}, _batch(1))
    assert torch.equal(unmixed["p2"], maps)
    assert torch.equal(unmixed["p3"], 2 * maps)


@pytest.mark.parametrize(("views", "group"), [(3, 4), (4, 1)])
def test_without_a_whole_group_of_several_nothing_changes(views: int, group: int) -> None:
    maps = _maps(1 + views)
    mixer = Tiles(tiles=4, group=group)
    images = mixer.images(ImageList(maps.clone(), [SIZE] * len(maps)), _batch(1))
    assert torch.equal(images.tensor, maps)
    # Not even a level that would have to be resized.
    level = {"p6": _maps(1 + views, (5, 7))}
    assert torch.equal(mixer.features(level, _batch(1))["p6"], level["p6"])


def test_a_pass_with_too_few_views_to_mix_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    method = MUM(MUM.Settings())
    with pytest.raises(ConfigError, match=r"SSOD\.MUM\.GROUP is 4, but a process draws 2 unl"):
        method.check_pass(2)
    method.check_pass(8)
    MUM(replace(MUM.Settings(), group=1)).check_pass(1)
    MUM(replace(MUM.Settings(), probability=0.0)).check_pass(2)
    assert not caplog.text
    method.check_pass(6)
    assert "6 unlabeled images for a pass, of which 2 exchange no tiles" in caplog.text


def test_tiles_that_do_not_divide_the_batch_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"SSOD\.MUM\.TILES is 32.*48 x 96"):
        Tiles(32, 1).images(ImageList(_maps(2, (48, 96)), [(48, 96)] * 2), _batch(1))


def test_a_step_mixes_and_finds_labels_where_they_were() -> None:
    """In groups of one image, a step is that of Unbiased Teacher."""
    settings = replace(MUM.Settings(), score_threshold=0.3)
    found = []
    for method in (
        UnbiasedTeacher(replace(UnbiasedTeacher.Settings(), score_threshold=0.3)),
        MUM(replace(settings, group=1)),
        MUM(replace(settings, group=2)),
    ):
        trainer = make_trainer([make_batch(0, unlabeled=2)], lr=0.0, overrides=SAMPLE_ALL)
        trainer.method = method
        found.append(run(trainer))
    plain, single, pair = found
    assert _losses(single) == _losses(plain)
    assert single["loss_cls"] == pytest.approx(pair["loss_cls"])
    assert single["loss_cls_unsup"] != pair["loss_cls_unsup"]
    assert single["ssod/pseudo_boxes_per_image"] == pair["ssod/pseudo_boxes_per_image"]


def _losses(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if "loss" in name}


def test_it_mixes_with_the_given_probability() -> None:
    torch.manual_seed(0)
    clock = Clock(0, 0, 10)
    for probability in (0.0, 0.3, 1.0):
        method = MUM(replace(MUM.Settings(), probability=probability))
        mixed = [method.mixer(clock) is not None for _ in range(500)]
        assert sum(mixed) / 500 == pytest.approx(probability, abs=0.06 * (0 < probability < 1))


# Following


def test_the_average_slows_down_along_a_line() -> None:
    method = MUM(replace(MUM.Settings(), ema_decay=0.9996, ramp_iters=2000))
    keep = [method.decay(Clock(t, 0, 10**5)) for t in range(2100)]
    assert keep[0] == 0.0
    assert keep[1] == pytest.approx(0.5 + 0.4996 / 2000)
    assert keep[1000] == pytest.approx(0.7498)
    assert keep[2000] == keep[2099] == 0.9996
    assert keep == sorted(keep)
    assert MUM(replace(method.settings, ramp_iters=0)).decay(Clock(1, 0, 10)) == 0.9996


def test_after_a_burn_in_the_ramp_begins_with_a_copy() -> None:
    method = MUM(replace(MUM.Settings(), ema_decay=0.9, ramp_iters=4))
    keep = [method.decay(Clock(t, 3, 100)) for t in range(3, 9)]
    assert keep == pytest.approx([0.0, 0.6, 0.7, 0.8, 0.9, 0.9])


@pytest.mark.parametrize(("burn_in", "ramp", "warns"), [(0, 100, False), (1, 100, True)])
def test_a_run_that_is_shorter_than_its_ramp_warns(
    burn_in: int, ramp: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"SOLVER.MAX_ITER": 100, "SSOD.BURN_IN_ITERS": burn_in, "SSOD.MUM.RAMP_ITERS": ramp}
    with caplog.at_level("WARNING", logger="dre_ssod"):
        build_method(tiny_cfg(**{"SSOD.METHOD": "MUM", **keys}))
    assert ("takes 100 iterations, and the run has 99" in caplog.text) == warns
