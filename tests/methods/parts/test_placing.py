"""Pieces on a canvas: what is painted lies where its labels say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dre_ssod.methods.parts.placing import Mixture, Piece, draw_integer, draw_rectangles

SIZE = (40, 60)
BOXES = ((6.0, 4.0, 18.0, 20.0), (30.0, 10.0, 54.0, 34.0))


def _view() -> Piece:
    """0 but for a rectangle of 1 and one of 2 at the boxes."""
    image = torch.zeros(3, *SIZE)
    for value, (x1, y1, x2, y2) in enumerate(BOXES, start=1):
        image[:, int(y1) : int(y2), int(x1) : int(x2)] = float(value)
    return Piece.whole(0, image)


def _labels(*boxes: tuple[float, ...]) -> Instances:
    found = Instances(SIZE, gt_boxes=Boxes(torch.tensor(boxes or BOXES)))
    found.gt_classes = torch.arange(len(found.gt_boxes))
    return found


def _extent(image: Tensor, value: float) -> list[float]:
    """(x1, y1, x2, y2) of the pixels of a value."""
    ys, xs = (image[0] == value).nonzero().unbind(dim=1)
    return [float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]


PLACEMENTS: dict[str, Callable[[Piece], Piece]] = {
    "as it is": lambda piece: piece,
    "flipped": lambda piece: piece.flipped(),
    "enlarged": lambda piece: piece.fitted(80, 200),
    "reduced": lambda piece: piece.fitted(20, 30),
    "flipped, then enlarged": lambda piece: piece.flipped().fitted(80, 120),
    "enlarged, then flipped": lambda piece: piece.fitted(120, 180).flipped(),
}


@pytest.mark.parametrize("name", PLACEMENTS)
def test_boxes_follow_their_pixels(name: str) -> None:
    canvas = torch.zeros(3, 150, 250)
    piece = PLACEMENTS[name](_view()).put(canvas, 7, 9)
    found = Mixture((150, 250), [piece]).labels([_labels()], 0.7)
    assert found.gt_classes.tolist() == [0, 1]
    assert found.image_size == (150, 250)
    for value, box in zip((1.0, 2.0), found.gt_boxes.tensor.tolist(), strict=True):
        assert _extent(canvas, value) == pytest.approx(box, abs=1e-4)


def test_a_piece_fits_with_its_aspect_ratio() -> None:
    assert _view().fitted(80, 200).size == (80, 120)
    assert _view().fitted(80, 60).size == (40, 60)
    assert torch.equal(_view().fitted(*SIZE).image, _view().image)


def test_what_is_put_twice_adds_up() -> None:
    canvas = torch.zeros(3, *SIZE)
    for _ in range(2):
        _view().put(canvas, 0, 0, 0.5)
    assert torch.equal(canvas, _view().image)


def test_the_view_itself_stays_as_it_was() -> None:
    view = _view()
    before = view.image.clone()
    view.painted_over(torch.tensor([[0.0, 0.0, 30.0, 30.0]])).flipped().put(
        torch.zeros(3, *SIZE), 0, 0
    )
    assert torch.equal(view.image, before)


def test_rectangles_are_painted_over_with_0() -> None:
    piece = _view().painted_over(torch.tensor([[6.0, 4.0, 18.0, 12.0], [30.0, 10.0, 54.0, 34.0]]))
    assert _extent(piece.image, 1.0) == [6.0, 12.0, 18.0, 20.0]
    assert not (piece.image == 2.0).any()


@pytest.mark.parametrize(("height", "kept"), [(6.9, True), (7.0, False), (0.0, True)])
def test_a_label_goes_once_seven_tenths_are_erased(height: float, kept: bool) -> None:
    label = _labels((0.0, 0.0, 10.0, 10.0))
    piece = _view()
    piece = Piece(0, piece.image, piece.matrix, torch.tensor([[0.0, 0.0, 10.0, height]]))
    assert len(piece.labels(label, SIZE, 0.7)) == kept


def test_erased_areas_add_up_where_they_overlap() -> None:
    label = _labels((0.0, 0.0, 10.0, 10.0))
    piece = _view().painted_over(torch.tensor([[0.0, 0.0, 10.0, 4.0]] * 2))
    assert len(piece.labels(label, SIZE, 0.7)) == 0
    # What is erased moves along.
    assert len(piece.fitted(80, 120).flipped().labels(label, (80, 120), 0.7)) == 0
    assert len(piece.fitted(80, 120).flipped().labels(label, (80, 120), 0.81)) == 1


def test_a_label_beyond_the_canvas_goes() -> None:
    piece = _view().put(torch.zeros(3, *SIZE), 0, 0)
    found = piece.labels(_labels(), (40, 30), 0.7)
    assert found.gt_classes.tolist() == [0]
    found = piece.labels(_labels(), (40, 40), 0.7)
    assert found.gt_boxes.tensor[1].tolist() == [30.0, 10.0, 40.0, 34.0]


def test_rectangles_lie_inside_and_have_the_shape_of_the_image() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        found = draw_rectangles(SIZE, (1, 19), 0.5)
        assert 1 <= len(found) <= 19
        assert torch.equal(found, found.round())
        assert (found[:, :2] >= 0).all()
        assert (found[:, 2:] <= torch.tensor([60.0, 40.0])).all()
        width, height = (found[:, 2:] - found[:, :2]).unbind(dim=1)
        assert (width <= 30).all()
        # One fraction for both sides, but for whole pixels.
        assert ((width / 60 - height / 40).abs() < 1 / 40).all()
    assert draw_rectangles(SIZE, (0, 0), 0.5).shape == (0, 4)


def test_integers_reach_both_ends() -> None:
    torch.manual_seed(0)
    assert {draw_integer(2, 4) for _ in range(50)} == {2, 3, 4}
