"""Pictures of pseudo-labels, proposals and the alignment of two views; strips and stacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from detectron2.structures import Boxes, Instances

from dre_ssod.inspection.drawing import (
    WEIGHT_COLORS,
    as_picture,
    checkerboard,
    draw_detections,
    draw_proposals,
    draw_pseudo_labels,
)
from dre_ssod.inspection.layout import color_scale, note, stack
from dre_ssod.structures import View
from tests.factories import affine, flip, pseudo_labels, view

GRAY = np.full((160, 160, 3), 40, dtype=np.uint8)
SCALE = 3
NAMES = ("a", "b", "c")


def at(picture: npt.NDArray[np.uint8], x: float, y: float) -> npt.NDArray[np.float64]:
    """Mean color of the few pixels around a point of the unmagnified image."""
    row, column = round(y * SCALE), round(x * SCALE)
    patch = picture[row - 1 : row + 1, column - 1 : column + 1]
    return patch.reshape(-1, 3).mean(axis=0)


def color(weight: float) -> npt.NDArray[np.float64]:
    return np.array(WEIGHT_COLORS(weight)[:3]) * 255


def test_pseudo_labels_are_drawn_as_detections_are() -> None:
    labels = pseudo_labels(size=(160, 160))
    labels.gt_sigma = torch.full((2, 4), 3.0)
    found = Instances((160, 160))
    found.pred_boxes, found.pred_classes = labels.gt_boxes, labels.gt_classes
    found.scores = labels.gt_scores
    found.localization_quality = labels.gt_localization_quality
    found.pred_boxes_sigma = labels.gt_sigma
    drawn = draw_pseudo_labels(GRAY, labels, NAMES)
    np.testing.assert_array_equal(drawn, draw_detections(GRAY, found, NAMES))


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_the_color_of_a_proposal_is_its_weight(weight: float) -> None:
    boxes = Boxes(torch.tensor([[20.0, 30.0, 120.0, 100.0]]))
    drawn = draw_proposals(GRAY, boxes, torch.tensor([weight]), is_foreground=True)
    np.testing.assert_allclose(at(drawn, 70, 100), color(weight), atol=40)
    assert (drawn[60 * SCALE, 70 * SCALE] == 40).all()


@pytest.mark.parametrize(("is_foreground", "top"), [(True, 0.9), (False, 0.1)])
def test_what_stands_out_lies_on_top(is_foreground: bool, top: float) -> None:
    boxes = Boxes(torch.tensor([[20.0, 30.0, 120.0, 100.0]]).repeat(2, 1))
    for weights in ([0.1, 0.9], [0.9, 0.1]):
        drawn = draw_proposals(GRAY, boxes, torch.tensor(weights), is_foreground)
        alone = draw_proposals(GRAY, boxes[:1], torch.tensor([top]), is_foreground)
        # Two casings, one on the other, are darker at their rims; the line itself is the same.
        assert np.abs(at(drawn, 70, 100) - at(alone, 70, 100)).max() < 30


def test_without_weights_all_count_in_full() -> None:
    boxes = Boxes(torch.tensor([[20.0, 30.0, 120.0, 100.0]]))
    drawn = draw_proposals(GRAY, boxes, None, is_foreground=True)
    full = draw_proposals(GRAY, boxes, torch.tensor([1.0]), is_foreground=True)
    np.testing.assert_array_equal(drawn, full)


def test_aligned_views_give_the_view_itself() -> None:
    """The two views differ in their noise, by up to 60 gray levels, but not in their objects."""
    weak = view(affine(shift=(-3.0, 2.0)))
    strong = view(affine(scale=0.9, degrees=5.0, shift=(8.0, 0.0)) @ flip(), seed=1)

    def error(other: View) -> float:
        base = as_picture(weak.image, "RGB").astype(int)
        # Inside, where the other view reaches.
        board = checkerboard(weak, other, "RGB").astype(int)
        return float((np.abs(board - base)[12:52, 16:80] > 80).mean())

    shifted = replace(strong, matrix=affine(shift=(6.0, 0.0)) @ strong.matrix)
    inverted = replace(strong, matrix=torch.linalg.inv(strong.matrix))
    assert error(strong) < 0.02
    assert error(shifted) > 3 * error(strong) + 0.02
    assert error(inverted) > 3 * error(strong) + 0.02


def test_the_fields_of_the_board_alternate_exactly() -> None:
    """Views with the same matrix: every pixel is that of one view or the other, half of each."""
    black = View(torch.zeros(3, 60, 60, dtype=torch.uint8), affine())
    white = View(torch.full((3, 60, 60), 255, dtype=torch.uint8), affine())
    board = checkerboard(black, white, "RGB")[:, :, 0]
    fields = board[5::10, 5::10]
    assert set(np.unique(board).tolist()) == {0, 255}
    expected = np.indices((6, 6)).sum(axis=0) % 2 * 255
    np.testing.assert_array_equal(fields, expected)


def test_strips_and_stacks_are_white_where_there_is_nothing() -> None:
    wide, narrow = np.zeros((4, 9, 3), np.uint8), np.zeros((3, 5, 3), np.uint8)
    rows = stack([wide, narrow])
    assert rows.shape == (7, 9, 3)
    assert (rows[4:, 5:] == 255).all()
    assert (rows[4:, :5] == 0).all()
    with pytest.raises(ValueError, match="there are no rows"):
        stack([])
    assert (note([]) == 255).all()
    assert note(["one"]).shape[0] < note(["one", "two"]).shape[0]
    assert note(["one"]).shape[1] < note(["one and more"]).shape[1]


def test_the_scale_runs_through_all_colors() -> None:
    strip = color_scale("weight", WEIGHT_COLORS)
    row = strip[strip.shape[0] // 2].astype(float)
    for weight in (0.0, 0.5, 1.0):
        assert np.abs(row - color(weight)).max(axis=1).min() < 3
