"""MixPL: what is mixed, where its labels lie, which losses count, and when the teacher follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from dre_ssod.methods import Clock
from dre_ssod.methods.mix_pl import MixPL, PseudoMix, stack
from dre_ssod.modeling.student_batch import StudentBatch
from tests.engine.steps import batch as make_batch
from tests.engine.steps import make_trainer, run
from tests.factories import labeled_image

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


def _batch(labeled: int = 1) -> StudentBatch:
    return StudentBatch([labeled_image(n) for n in range(labeled)])


def _mixed(
    views: int, seed: int = 0, **settings: Any
) -> tuple[PseudoMix, ImageList, list[Instances]]:
    mixer = PseudoMix(replace(MixPL.Settings(), **{**PLAIN, **settings}))
    torch.manual_seed(seed)
    images = mixer.images(_images(views), _batch())
    return mixer, images, mixer.labels(_labels(views), _batch())


def _mean_at(image: Tensor, box: Tensor) -> float:
    x1, y1, x2, y2 = box.round().long().tolist()
    return image[0, y1:y2, x1:x2].mean().item()


@pytest.mark.parametrize("seed", range(5))
def test_every_view_is_mixed_with_another_one_and_both_keep_their_labels(seed: int) -> None:
    _, images, labels = _mixed(3, seed, mosaic_weight=0.0)
    assert len(images) == 4
    assert torch.equal(images.tensor[0], torch.full((3, *SIZE), 100.0))
    partners = []
    for number, found in enumerate(labels):
        own, other = found.gt_classes.tolist()
        assert own == number
        assert other != number
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
    assert sorted(partners) == [0, 1, 2]


def test_the_partner_fills_the_batch_and_the_canvas_holds_both() -> None:
    _, _, labels = _mixed(3, mosaic_weight=0.0)
    for found in labels:
        _, other = found.gt_boxes.tensor
        width, height = (other[2:] - other[:2]).tolist()
        assert width == pytest.approx(SIZE[1]) or height == pytest.approx(SIZE[0])
        assert found.image_size[0] <= SIZE[0]
        assert found.image_size[1] <= SIZE[1]


def test_a_view_without_another_one_is_mixed_with_itself() -> None:
    _, images, (found,) = _mixed(1, mosaic_weight=0.0)
    # Flipped, but it is of one color: the image itself, with doubled labels.
    assert torch.equal(images.tensor[1], _images(1).tensor[1])
    assert found.gt_classes.tolist() == [0, 0]
    assert torch.equal(*found.gt_boxes.tensor)


@pytest.mark.parametrize("views", [1, 3, 4, 6])
def test_a_mosaic_has_four_tiles_that_meet_in_the_middle(views: int) -> None:
    _, images, labels = _mixed(views, mosaic_sides=(0.25, 0.5))
    assert len(images) == 1 + views + 1
    image, found = images[1 + views], labels[views]
    height, width = image.shape[-2:]
    assert 48 <= height <= 96
    assert 48 <= width <= 96
    assert found.image_size == (height, width)
    classes = found.gt_classes.tolist()
    assert len(classes) == 4
    assert len(set(classes)) == min(views, 4)
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


def test_pieces_are_erased_anew_in_every_mixture() -> None:
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


def test_one_view_without_a_label_silences_all_views_and_none_the_mosaic() -> None:
    mixer = PseudoMix(replace(MixPL.Settings(), erase_count=(0, 0)))
    torch.manual_seed(0)
    mixer.images(_images(4), _batch())
    # Only one of four views has a label: two mixtures do not, and the mosaic does.
    labels = _labels(4)
    labels[1:] = [found[:0] for found in labels[1:]]
    found = mixer.labels(labels, _batch())
    assert sum(len(boxes) == 0 for boxes in found) == 2
    weights = mixer.weights()
    assert weights is not None
    assert weights[:4].tolist() == [0.0] * 4
    assert weights[4].item() == 2.5
    mixer.labels([boxes[:0] for boxes in labels], _batch())
    silent = mixer.weights()
    assert silent is not None
    assert silent.tolist() == [0.0] * 5


def test_a_partners_label_opens_the_gate() -> None:
    mixer = PseudoMix(replace(MixPL.Settings(), erase_count=(0, 0), mosaic_weight=0.0))
    torch.manual_seed(0)
    mixer.images(_images(2), _batch())
    labels = _labels(2)
    labels[1] = labels[1][:0]
    mixer.labels(labels, _batch())
    weights = mixer.weights()
    assert weights is not None
    assert weights.tolist() == [1.0, 1.0]


def test_without_the_gate_losses_count_whatever_is_labeled() -> None:
    mixer = PseudoMix(replace(MixPL.Settings(), require_labels=False, **PLAIN))
    mixer.images(_images(4), _batch())
    mixer.labels([found[:0] for found in _labels(4)], _batch())
    weights = mixer.weights()
    assert weights is not None
    assert (weights > 0).all()


def _step(**settings: Any) -> dict[str, Tensor]:
    trainer = make_trainer([make_batch(0, unlabeled=2)], lr=1.0)
    trainer.method = MixPL(replace(MixPL.Settings(), **settings))
    run(trainer)
    return dict(trainer.model.state_dict())


def test_a_gated_step_teaches_what_labels_alone_teach() -> None:
    # Every label counts as erased, so there is none.
    silent = _step(max_erased=0.0, unsup_loss_weight=2.0)
    weightless = _step(max_erased=0.0, unsup_loss_weight=0.0)
    for name, tensor in silent.items():
        torch.testing.assert_close(tensor, weightless[name])


# Following


def test_the_teacher_follows_at_every_third_iteration() -> None:
    method = MixPL(replace(MixPL.Settings(), ema_decay=0.9998))
    found = [method.decay(Clock(t, 0, 100)) for t in range(9)]
    assert [t for t, decay in enumerate(found) if decay is not None] == [2, 5, 8]
    assert found[2] == pytest.approx(1 - 4 / 6)
    assert found[8] == pytest.approx(1 - 4 / 12)
    # max(.0002, 4 / (4 + t)) is .0002 from t = 19996 on.
    assert method.decay(Clock(20000, 0, 10**6)) == pytest.approx(0.9998)


def test_a_burn_in_ends_with_a_copy() -> None:
    method = MixPL(MixPL.Settings())
    found = [method.decay(Clock(t, 4, 100)) for t in range(3, 8)]
    assert found == [None, 0.0, None, pytest.approx(1 - 4 / 6), None]


def test_the_same_seed_mixes_the_same() -> None:
    (_, one, _), (_, two, _), (_, other, _) = (
        _mixed(4, seed, erase_count=(1, 19)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.tensor, two.tensor)
    assert one.image_sizes == two.image_sizes
    assert one.tensor.shape != other.tensor.shape or not torch.equal(one.tensor, other.tensor)
