"""Boxes must survive any chain of view geometry, and agree with Detectron2's own transforms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.data.transforms import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    ResizeTransform,
    RotationTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dre_ssod.data.views.geometric import rotation, shear, translation
from dre_ssod.geometry import align_boxes, clip_boxes, map_boxes, relative_matrix
from dre_ssod.structures import View

IDENTITY = torch.eye(3, dtype=torch.float64)
sides = st.integers(20, 1500)
reproducible = settings(derandomize=True, deadline=None)


def matrix_of(transforms: TransformList) -> Tensor:
    """Read the (3, 3) matrix off affine transforms, by sending three points through them."""
    probe = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    origin, along_x, along_y = np.asarray(transforms.apply_coords(probe), dtype=np.float64)
    columns = [(along_x - origin) / 100.0, (along_y - origin) / 100.0, origin]
    return torch.from_numpy(np.vstack([np.stack(columns, axis=1), [0.0, 0.0, 1.0]]))


def matrices_of(*, axis_aligned: bool) -> st.SearchStrategy[Tensor]:
    """Matrices of one geometric operation of a view."""
    scales = st.floats(0.2, 4.0)
    aligned = [
        st.builds(lambda x, y: np.diag([x, y, 1.0]), scales, scales),
        st.builds(lambda w: np.array([[-1.0, 0, w], [0, 1, 0], [0, 0, 1]]), sides),
        st.builds(lambda h: np.array([[1.0, 0, 0], [0, -1, h], [0, 0, 1]]), sides),
        st.builds(translation, st.floats(-150, 150), st.floats(-150, 150)),
    ]
    slopes = st.floats(-0.6, 0.6)
    slanted = [
        st.builds(rotation, st.floats(-30.0, 30.0)),
        st.builds(shear, slopes, slopes),
    ]
    choice = st.one_of(aligned if axis_aligned else aligned + slanted)
    return choice.map(torch.from_numpy)


def chains_of(*, axis_aligned: bool = False) -> st.SearchStrategy[Tensor]:
    def compose(steps: list[Tensor]) -> Tensor:
        total = IDENTITY
        for step in steps:
            total = step @ total
        return total

    return st.lists(matrices_of(axis_aligned=axis_aligned), max_size=6).map(compose)


@st.composite
def box_sets(draw: st.DrawFn) -> Tensor:
    coordinate, side = st.floats(0.0, 600.0), st.floats(0.5, 400.0)
    rows = draw(st.lists(st.tuples(coordinate, coordinate, side, side), min_size=1, max_size=5))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64)


def contains(outer: Tensor, inner: Tensor, slack: float = 1e-6) -> bool:
    covers_start = (outer[:, :2] <= inner[:, :2] + slack).all()
    covers_end = (outer[:, 2:] >= inner[:, 2:] - slack).all()
    return bool(covers_start and covers_end)


@st.composite
def invertible_transforms(draw: st.DrawFn) -> TransformList:
    """Chains of what Detectron2 can invert exactly."""
    height, width = draw(sides), draw(sides)
    chain: list[Transform] = []
    for kind in draw(st.lists(st.sampled_from(["resize", "hflip", "vflip", "none"]), max_size=5)):
        if kind == "resize":
            new_height, new_width = draw(sides), draw(sides)
            chain.append(ResizeTransform(height, width, new_height, new_width))
            height, width = new_height, new_width
        elif kind == "hflip":
            chain.append(HFlipTransform(width))
        elif kind == "vflip":
            chain.append(VFlipTransform(height))
        else:
            chain.append(NoOpTransform())
    return TransformList(chain)


@reproducible
@given(box_sets(), chains_of(axis_aligned=True), chains_of(axis_aligned=True))
def test_boxes_come_back_from_another_view_without_slant(
    boxes: Tensor, weak: Tensor, strong: Tensor
) -> None:
    there = map_boxes(boxes, relative_matrix(weak, strong))
    back = map_boxes(there, relative_matrix(strong, weak))
    torch.testing.assert_close(back, boxes, rtol=1e-6, atol=1e-5)


@reproducible
@given(box_sets(), chains_of(), chains_of())
def test_box_that_went_through_any_two_views_contains_itself(
    boxes: Tensor, weak: Tensor, strong: Tensor
) -> None:
    there = map_boxes(boxes, relative_matrix(weak, strong))
    back = map_boxes(there, relative_matrix(strong, weak))
    assert contains(back, boxes, slack=1e-4)


@reproducible
@given(chains_of(), chains_of())
def test_relative_matrix_takes_the_source_to_the_target(source: Tensor, target: Tensor) -> None:
    product = relative_matrix(source, target) @ source
    torch.testing.assert_close(product, target, rtol=1e-7, atol=1e-6)
    there_and_back = relative_matrix(target, source) @ relative_matrix(source, target)
    torch.testing.assert_close(there_and_back, IDENTITY, rtol=1e-7, atol=1e-5)


@reproducible
@given(box_sets(), chains_of(axis_aligned=True), chains_of(axis_aligned=True))
def test_mapping_in_two_steps_is_mapping_by_the_product(
    boxes: Tensor, first: Tensor, second: Tensor
) -> None:
    stepwise = map_boxes(map_boxes(boxes, first), second)
    torch.testing.assert_close(stepwise, map_boxes(boxes, second @ first), rtol=1e-7, atol=1e-6)


@reproducible
@given(box_sets(), chains_of())
def test_hull_touches_the_mapped_corners(boxes: Tensor, matrix: Tensor) -> None:
    x1, y1, x2, y2 = boxes.unbind(1)
    ones = torch.ones_like(x1)
    corners = torch.stack(
        [torch.stack([x, y, ones]) for x in (x1, x2) for y in (y1, y2)]
    )  # (4, 3, R)
    mapped = (matrix @ corners)[:, :2].permute(2, 0, 1)  # (R, 4, 2)
    expected = torch.cat([mapped.amin(1), mapped.amax(1)], dim=1)
    torch.testing.assert_close(map_boxes(boxes, matrix), expected, rtol=1e-9, atol=1e-8)


@reproducible
@given(box_sets(), invertible_transforms())
def test_agrees_with_detectron2_both_ways(boxes: Tensor, transforms: TransformList) -> None:
    matrix = matrix_of(transforms)
    forward = map_boxes(boxes, matrix)
    expected = torch.from_numpy(transforms.apply_box(boxes.numpy()))
    torch.testing.assert_close(forward, expected, rtol=1e-7, atol=1e-6)

    inverse = matrix_of(transforms.inverse())
    torch.testing.assert_close(relative_matrix(matrix, IDENTITY), inverse, rtol=1e-7, atol=1e-5)
    undone = torch.from_numpy(transforms.inverse().apply_box(forward.numpy()))
    torch.testing.assert_close(undone, boxes, rtol=1e-6, atol=1e-5)


@reproducible
@given(box_sets(), sides, sides, st.floats(-180.0, 180.0), st.booleans())
def test_agrees_with_detectron2_on_rotation_crop_and_padding(
    boxes: Tensor, height: int, width: int, angle: float, expand: bool
) -> None:
    transforms = TransformList(
        [
            RotationTransform(height, width, angle, expand=expand),
            CropTransform(7, 5, width, height),
            PadTransform(11, 3, 2, 1),
            HFlipTransform(width),
        ]
    )
    expected = torch.from_numpy(transforms.apply_box(boxes.numpy()))
    mapped = map_boxes(boxes, matrix_of(transforms))
    # Detectron2 rotates by a float32 matrix of OpenCV.
    torch.testing.assert_close(mapped, expected, rtol=1e-5, atol=1e-2)


def test_hand_computed_flip_of_a_resize() -> None:
    # 100 x 50 (w x h) becomes 200 x 150, then x -> 200 - x.
    transforms = TransformList([ResizeTransform(50, 100, 150, 200), HFlipTransform(200)])
    expected = torch.tensor([[-2.0, 0, 200], [0, 3, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(matrix_of(transforms), expected)
    box = torch.tensor([[10.0, 20.0, 30.0, 25.0]])
    assert map_boxes(box, expected).tolist() == [[140.0, 60.0, 180.0, 75.0]]


def test_hand_computed_hull_at_45_degrees() -> None:
    # A square of side 2 about the origin turns into a diamond of half diagonal sqrt(2).
    box = torch.tensor([[-1.0, -1.0, 1.0, 1.0]], dtype=torch.float64)
    half = math.sqrt(2.0)
    mapped = map_boxes(box, torch.from_numpy(rotation(45.0)))
    torch.testing.assert_close(mapped, torch.tensor([[-half, -half, half, half]]).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_identity_leaves_boxes_and_their_dtype(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0.0, 0.0, 640.0, 480.0], [3.5, 4.25, 3.5, 4.25]], dtype=dtype)
    mapped = map_boxes(boxes, IDENTITY)
    assert mapped.dtype == dtype
    assert torch.equal(mapped, boxes)


def test_a_matrix_for_each_box_is_each_box_by_its_own_matrix() -> None:
    boxes = torch.rand(5, 4, dtype=torch.float64) * 100
    matrices = torch.stack(
        [torch.from_numpy(rotation(7.0 * k) @ shear(0.05, 0.02 * k)) for k in range(5)]
    )
    together = map_boxes(boxes, matrices)
    for box, matrix, mapped in zip(boxes, matrices, together, strict=True):
        assert torch.equal(mapped[None], map_boxes(box[None], matrix))


def test_aligned_boxes_are_mapped_by_the_views_of_their_image_and_clipped_to_it() -> None:
    def view(matrix: np.ndarray, height: int, width: int) -> View:
        return View(torch.zeros(3, height, width, dtype=torch.uint8), torch.from_numpy(matrix))

    sources = [view(np.diag([2.0, 2.0, 1.0]), 200, 400), view(np.eye(3), 10, 10)]
    targets = [view(translation(-30.0, 5.0), 60, 50), view(np.eye(3), 7, 9)]
    boxes = [torch.tensor([[80.0, 20.0, 120.0, 60.0], [0.0, 0.0, 20.0, 10.0]]), torch.zeros(0, 4)]
    first, second = align_boxes(boxes, sources, targets)
    # Halved, then 30 to the left and 5 down; the second box has left the view.
    assert first.tolist() == [[10.0, 15.0, 30.0, 35.0], [0.0, 5.0, 0.0, 10.0]]
    assert second.shape == (0, 4)
    (clipped,) = align_boxes([torch.tensor([[-5.0, 3.0, 99.0, 99.0]])], sources[1:], targets[1:])
    assert clipped.tolist() == [[0.0, 3.0, 9.0, 7.0]]


@pytest.mark.parametrize("shape", [(0, 4), (0,)])
def test_no_boxes_stay_no_boxes(shape: tuple[int, ...]) -> None:
    mapped = map_boxes(torch.zeros(shape), torch.from_numpy(rotation(10.0)))
    assert mapped.shape == (0, 4)
    assert mapped.dtype == torch.float32


def test_boxes_are_clipped_as_detectron2_does() -> None:
    boxes = torch.tensor(
        [[-5.0, 2.0, 30.0, 90.0], [3.0, -4.0, 120.0, 8.0], [200.0, 70.0, 210.0, 80.0]]
    )
    expected = Boxes(boxes.clone())
    expected.clip((64, 96))
    assert torch.equal(clip_boxes(boxes, (64, 96)), expected.tensor)
    assert clip_boxes(boxes[:0], (64, 96)).shape == (0, 4)
