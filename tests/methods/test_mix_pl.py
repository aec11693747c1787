"""MixPL: what is mixed, where its labels lie, and which losses count."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import comm
from torch import Tensor

from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.methods.mix_pl import MixPL, PseudoMix, stack
from dre_ssod.methods.parts.older_views import OlderViews
from dre_ssod.modeling.student_batch import StudentBatch
from tests.factories import labeled_image, tiny_cfg
from tests.forks import run_two_processes

SIZE = (64, 96)
PLAIN = {"erase_count": (0, 0)}


def _images(views: int, labeled: int = 1) -> ImageList:
    """Constant images: labeled ones are 100, view number n is n + 1; each padded by 0."""
    tensor = torch.zeros(labeled + views, 3, *SIZE)
    sizes = [SIZE] * labeled
    tensor[:labeled] = 100.0
    for number in range(views):
        height, width = 64 - 8 * number, 96 - 16 * number
        tensor[labeled + number, :, :height, :width] = number + 1.0
        sizes.append((height, width))
    return ImageList(tensor, sizes)


def _labels(views: int) -> list[Instances]:
    found = []
    for number in range(views):
        size = (64 - 8 * number, 96 - 16 * number)
        box = Boxes(torch.tensor([[0.0, 0.0, float(size[1]), float(size[0])]]))
        found.append(Instances(size, gt_boxes=box, gt_classes=torch.tensor([number])))
    return found


def _image(color: int, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.full((3, *size), color, dtype=torch.uint8)


def _older(views: int, kept: int = 8) -> OlderViews:
    """Older view number n is of color n + 11 and shows an object of class n + 10."""
    older = OlderViews(kept)
    labels = _labels(views)
    images = [_image(n + 11, found.image_size) for n, found in enumerate(labels)]
    for found in labels:
        found.gt_classes += 10
    older.add(images, labels)
    return older


def _unchanged(views: list[dict[str, Any]]) -> ImageList:
    return ImageList.from_tensors([view["image"].float() for view in views], 32)


def _batch(views: int = 0) -> StudentBatch:
    strong = [{"image": _image(number + 1)} for number in range(views)]
    return StudentBatch([labeled_image(0)], strong)


def _mixer(older: OlderViews, **settings: Any) -> PseudoMix:
    return PseudoMix(replace(MixPL.Settings(), **{**PLAIN, **settings}), older, _unchanged)


def _mixed(
    views: int, seed: int = 0, **settings: Any
) -> tuple[PseudoMix, ImageList, list[Instances]]:
    mixer = _mixer(_older(6, kept=6), **settings)
    torch.manual_seed(seed)
    images = mixer.images(_images(views), _batch(views))
    return mixer, images, mixer.labels(_labels(views), _batch(views))


def _mean_at(image: Tensor, box: Tensor) -> float:
    x1, y1, x2, y2 = box.round().long().tolist()
    return image[0, y1:y2, x1:x2].mean().item()


@pytest.mark.parametrize("seed", range(5))
def test_every_view_is_mixed_with_one_of_the_oldest_and_both_keep_their_labels(seed: int) -> None:
    _, images, labels = _mixed(3, seed, mosaic_weight=0.0)
    assert len(images) == 4
    assert torch.equal(images.tensor[0], torch.full((3, *SIZE), 100.0))
    partners = []
    for number, found in enumerate(labels):
        own, other = found.gt_classes.tolist()
        assert own == number
        partners.append(other)
        assert images.image_sizes[1 + number] == found.image_size
        # Half of each where both lie, and half of one where the other does not.
        image, box = images[1 + number], found.gt_boxes.tensor
        low, high = torch.maximum(*box[:, :2]), torch.minimum(*box[:, 2:])
        inside = torch.cat([low.ceil(), high.floor()])
        assert _mean_at(image, inside) == pytest.approx((own + other + 2) / 2)
        total = sum(
            (value + 1) / 2 * (b[2] - b[0]).item() * (b[3] - b[1]).item()
            for value, b in zip((own, other), box, strict=True)
        )
        assert image[0].sum().item() == pytest.approx(total, rel=1e-4)
    # Of the six that are kept, the three oldest, each once.
    assert sorted(partners) == [10, 11, 12]


def test_partners_come_in_any_order() -> None:
    orders = {
        tuple(found.gt_classes[1].item() for found in _mixed(2, seed, mosaic_weight=0.0)[2])
        for seed in range(20)
    }
    assert orders == {(10, 11), (11, 10)}


def test_the_partner_fills_the_batch_and_the_canvas_holds_both() -> None:
    _, _, labels = _mixed(3, mosaic_weight=0.0)
    for found in labels:
        _, other = found.gt_boxes.tensor
        width, height = (other[2:] - other[:2]).tolist()
        assert width == pytest.approx(SIZE[1]) or height == pytest.approx(SIZE[0])
        assert found.image_size[0] <= SIZE[0]
        assert found.image_size[1] <= SIZE[1]


def test_a_view_mixed_with_itself_is_itself_with_doubled_labels() -> None:
    older = OlderViews(1)
    older.add([_image(1)], _labels(1))
    mixer = _mixer(older, mosaic_weight=0.0)
    images = mixer.images(_images(1), _batch(1))
    (found,) = mixer.labels(_labels(1), _batch(1))
    # Flipped, but it is of one color.
    assert torch.equal(images.tensor[1], _images(1).tensor[1])
    assert found.gt_classes.tolist() == [0, 0]
    assert torch.equal(*found.gt_boxes.tensor)


@pytest.mark.parametrize("views", [1, 4])
def test_a_mosaic_has_four_tiles_that_meet_in_the_middle(views: int) -> None:
    _, images, labels = _mixed(views, mosaic_sides=(0.25, 0.5))
    assert len(images) == 1 + views + 1
    image, found = images[1 + views], labels[views]
    height, width = image.shape[-2:]
    assert 48 <= height <= 96
    assert 48 <= width <= 96
    assert found.image_size == (height, width)
    classes = found.gt_classes.tolist()
    # The newest four of the six that are kept.
    assert sorted(classes) == [12, 13, 14, 15]
    # The corner of each tile that touches the middle.
    corners = ((2, 3), (0, 3), (2, 1), (0, 1))
    for box, number, corner in zip(found.gt_boxes.tensor, classes, corners, strict=True):
        assert box[list(corner)].tolist() == [width / 2, height / 2]
        assert _mean_at(image, box) == pytest.approx(number + 1)
    areas = Boxes(found.gt_boxes.tensor).area()
    assert image[0].sum().item() == pytest.approx((areas * (found.gt_classes + 1)).sum().item())


def test_a_mosaic_may_make_the_batch_grow_to_what_the_backbone_takes() -> None:
    _, images, _ = _mixed(4, mosaic_sides=(0.7, 0.7))
    # 2 * 67 pixels; the sides of the batch have 32 in common.
    assert images.image_sizes[-1] == (134, 134)
    assert images.tensor.shape[-2:] == (160, 160)
    assert torch.equal(images.tensor[0, :, : SIZE[0], : SIZE[1]], torch.full((3, *SIZE), 100.0))
    assert images.tensor[0].sum() == 100.0 * 3 * 64 * 96
    same = stack([torch.ones(3, 10, 20)], (64, 128))
    assert same.shape == (1, 3, 64, 128)
    assert same.sum() == 600


def test_a_mosaic_of_fewer_views_than_tiles_shows_some_again() -> None:
    mixer = _mixer(_older(3, kept=3))
    mixer.images(_images(2), _batch(2))
    *_, found = mixer.labels(_labels(2), _batch(2))
    assert len(found) == 4
    assert set(found.gt_classes.tolist()) == {10, 11, 12}


def test_pieces_are_erased_in_every_mixture() -> None:
    _, images, _ = _mixed(2, erase_count=(5, 5), erase_size=0.5)
    assert (images.tensor[1] != images.tensor[2]).any()
    assert (images[1][0] == 0.0).any()


def test_what_is_erased_loses_its_label() -> None:
    _, _, labels = _mixed(3, erase_count=(50, 50), erase_size=0.9, max_erased=0.7)
    assert [len(found) for found in labels] == [0] * 4


# Which losses count


def test_the_mean_of_all_images_is_that_of_the_views_plus_half_the_mosaic() -> None:
    mixer, _, _ = _mixed(4)
    weights = mixer.weights()
    assert weights is not None
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 7.0])
    expected = losses[:4].mean() + 0.5 * losses[4]
    torch.testing.assert_close((weights * losses).mean(), expected)


def _without_labels(views: int, labeled: Collection[int]) -> list[Instances]:
    """Labels of these views alone."""
    return [
        found if number in labeled else found[:0] for number, found in enumerate(_labels(views))
    ]


def _weights(older: Collection[int], newer: Collection[int], **settings: Any) -> list[float]:
    """Of two views and their mosaic, given which of four older and of two new views are labeled."""
    kept = OlderViews(4)
    kept.add([_image(0)] * 4, _without_labels(4, older))
    mixer = _mixer(kept, **settings)
    mixer.images(_images(2), _batch(2))
    mixer.labels(_without_labels(2, newer), _batch(2))
    weights = mixer.weights()
    assert weights is not None
    found: list[float] = weights.tolist()
    return found


def test_one_view_without_a_label_silences_all_views_and_none_the_mosaic() -> None:
    # One of the two views has neither a label nor a partner with one: the two oldest have none.
    assert _weights(older=(3,), newer=(0,)) == [0.0, 0.0, 1.5]
    assert _weights(older=(), newer=(0, 1)) == [1.5, 1.5, 0.0]
    assert _weights(older=(), newer=()) == [0.0, 0.0, 0.0]


def test_a_partners_label_opens_the_gate() -> None:
    assert _weights(older=(0, 1), newer=(), mosaic_weight=0.0) == [1.0, 1.0]


def test_without_the_gate_losses_count_whatever_is_labeled() -> None:
    assert _weights(older=(), newer=(), require_labels=False) == [1.5, 1.5, 1.5]


# Views of the steps before


def test_partners_are_two_steps_old_and_tiles_one() -> None:
    """With as many views in a step as half of those that are kept, as in the code: 4 and 8."""
    older = OlderViews(8)
    classes = []
    for step in range(4):
        labels = _labels(4)
        for found in labels:
            found.gt_classes.fill_(step)
        mixer = _mixer(older)
        mixer.images(_images(4), _batch(4))
        classes.append([found.gt_classes.tolist() for found in mixer.labels(labels, _batch(4))])
    assert classes[0] == [[0]] * 4
    assert classes[1] == [[1]] * 4
    assert classes[2] == [[2, 0]] * 4 + [[1, 1, 1, 1]]
    assert classes[3] == [[3, 1]] * 4 + [[2, 2, 2, 2]]


def test_as_many_views_are_kept_as_a_step_has() -> None:
    older = _older(2, kept=3)
    assert not older.are_enough
    older.add([_image(7)] * 5, _labels(5))
    assert [view.image[0, 0, 0].item() for view in older.views] == [7] * 5
    assert older.suffice_for(5)
    assert not older.suffice_for(6)
    older.add([_image(8)], _labels(1))
    assert [view.image[0, 0, 0].item() for view in older.views] == [7, 7, 8]


def _save_and_load(rank: int, folder: Path) -> None:
    """Two processes save what they have, and each finds it again."""
    older = OlderViews(2)
    older.add([_image(10 + rank)] * 2, _labels(2))
    state = older.state_dict()
    if rank == 0:
        torch.save(state, folder / "state.pth")
    dist.barrier()
    saved = torch.load(folder / "state.pth", weights_only=True)
    resumed = OlderViews(2)
    resumed.load_state_dict(saved)
    for view, own in zip(resumed.views, older.views, strict=True):
        assert torch.equal(view.image, own.image)
        assert torch.equal(view.labels.gt_boxes.tensor, own.labels.gt_boxes.tensor)
        assert torch.equal(view.labels.gt_classes, own.labels.gt_classes)


def test_a_checkpoint_has_the_views_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_two_processes(_save_and_load, tmp_path, folder=tmp_path)
    saved = torch.load(tmp_path / "state.pth", weights_only=True)
    # With another number of processes, each takes the views of one of those before.
    for rank, color in ((0, 10), (1, 11), (2, 10)):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        older = OlderViews(2)
        older.load_state_dict(saved)
        assert [view.image[0, 0, 0].item() for view in older.views] == [color, color]


# Labels, views and seeds


def test_labels_score_above_tau_and_views_have_lone_shears() -> None:
    method = MixPL(replace(MixPL.Settings(), score_threshold=0.7))
    scores = torch.tensor([0.7, torch.nextafter(torch.tensor(0.7), torch.tensor(1.0))])
    assert (scores >= method.lowest_score).tolist() == [False, True]
    cfg = tiny_cfg()
    _, strong = method.mappers(cfg)[1].drawn
    expected = ViewRecipe.strong(cfg)
    assert expected.geometric is not None
    assert strong == replace(expected, geometric=replace(expected.geometric, lone_shears=True))
    cfg.SSOD.STRONG_VIEW.GEOMETRIC = False
    assert method.mappers(cfg)[1].drawn[1] == ViewRecipe.strong(cfg)


def test_the_same_seed_mixes_the_same() -> None:
    (_, one, _), (_, two, _), (_, other, _) = (
        _mixed(4, seed, erase_count=(1, 19)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.tensor, two.tensor)
    assert one.image_sizes == two.image_sizes
    assert one.tensor.shape != other.tensor.shape or not torch.equal(one.tensor, other.tensor)
