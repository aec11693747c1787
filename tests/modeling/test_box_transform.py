"""Box codings: exact inverses, hand-computed offsets, and uncertainty in pixels."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dre_ssod.modeling.box_transform import BOX_TRANSFORM_REGISTRY, build_box_transform

NAMES = ["corner", "center_size"]
WEIGHTS = (10.0, 5.0, 2.0, 4.0)
coordinates = st.floats(-500.0, 500.0)
lengths = st.floats(1.0, 500.0)
boxes = st.builds(
    lambda x, y, w, h: [x, y, x + w, y + h], coordinates, coordinates, lengths, lengths
)


def _double(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(pairs=st.lists(st.tuples(boxes, boxes), min_size=1, max_size=4))
def test_decoding_inverts_coding(name: str, pairs: list[tuple[list[float], list[float]]]) -> None:
    transform = build_box_transform(name, WEIGHTS)
    proposals, targets = (_double(list(rows)) for rows in zip(*pairs, strict=True))
    # As proposals are: a side of one that is rounded between coding and decoding would be another.
    proposals = proposals.float().double()
    if name == "center_size":
        # Detectron2 bounds dw and dh so that no side grows by more than 62.5 times.
        sides = (targets[:, 2:] - targets[:, :2]) / (proposals[:, 2:] - proposals[:, :2])
        targets = targets[sides.amax(dim=1) < 60]
        proposals = proposals[sides.amax(dim=1) < 60]
    decoded = transform.apply_deltas(transform.get_deltas(proposals, targets), proposals)
    # Detectron2 decodes in float32 whatever it is given.
    rtol, atol = (1e-9, 1e-7) if name == "corner" else (1e-5, 1e-2)
    torch.testing.assert_close(decoded.double(), targets, rtol=rtol, atol=atol)


def test_corner_offsets_by_hand() -> None:
    # W = 20, H = 40: (2/20 * 10, -4/40 * 5, -5/20 * 2, 8/40 * 4).
    proposal, target = _double([[10, 20, 30, 60]]), _double([[12, 16, 25, 68]])
    transform = build_box_transform("corner", WEIGHTS)
    deltas = transform.get_deltas(proposal, target)
    torch.testing.assert_close(deltas, _double([[1.0, -0.5, -0.5, 0.8]]))
    torch.testing.assert_close(transform.apply_deltas(deltas, proposal), target)


def test_each_corner_offset_moves_its_own_edge() -> None:
    transform = build_box_transform("corner", WEIGHTS)
    proposal = _double([[10, 20, 30, 60]])
    moved = transform.apply_deltas(torch.eye(4, dtype=torch.float64), proposal.expand(4, 4))
    # One unit moves an edge by side / weight: 20/10, 40/5, 20/2, 40/4.
    shift = torch.diag(torch.tensor([2.0, 8.0, 10.0, 10.0], dtype=torch.float64))
    torch.testing.assert_close(moved - proposal, shift)


@pytest.mark.parametrize("name", NAMES)
def test_zero_offsets_give_the_proposal(name: str) -> None:
    proposals = _double([[10, 20, 30, 60], [0, 0, 5, 5]])
    decoded = build_box_transform(name, WEIGHTS).apply_deltas(torch.zeros(2, 4), proposals.float())
    torch.testing.assert_close(decoded, proposals.float())


@pytest.mark.parametrize("name", NAMES)
def test_codings_per_class_are_decoded_one_by_one(name: str) -> None:
    transform = build_box_transform(name, WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    deltas = torch.randn(5, 12, generator=generator)
    proposals = torch.tensor([[10.0, 20.0, 30.0, 60.0]]) + torch.arange(5.0).unsqueeze(1)
    together = transform.apply_deltas(deltas, proposals)
    for k in range(3):
        columns = slice(4 * k, 4 * k + 4)
        alone = transform.apply_deltas(deltas[:, columns], proposals)
        torch.testing.assert_close(together[:, columns], alone)


def test_center_size_is_detectron2s() -> None:
    ours, theirs = build_box_transform("center_size", WEIGHTS), Box2BoxTransform(WEIGHTS)
    proposals = torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 5.0, 9.0]])
    targets = torch.tensor([[12.0, 16.0, 25.0, 68.0], [1.0, -2.0, 8.0, 5.0]])
    deltas = ours.get_deltas(proposals, targets)
    assert torch.equal(deltas, theirs.get_deltas(proposals, targets))
    assert torch.equal(
        ours.apply_deltas(deltas + 0.3, proposals), theirs.apply_deltas(deltas + 0.3, proposals)
    )


def test_corner_sigma_by_hand() -> None:
    # sigma of the offsets: 1, 2, 3, 4; times side / weight: 20/10, 40/5, 20/2, 40/4.
    log_variance = 2 * torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()
    sigma = build_box_transform("corner", WEIGHTS).corner_sigma(
        torch.zeros(1, 4), log_variance, torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    )
    torch.testing.assert_close(sigma, torch.tensor([[2.0, 16.0, 30.0, 40.0]]))


def test_center_size_sigma_by_hand() -> None:
    # W = 20, H = 40, dw = 2 log 3 decodes to a width of 60 (weight 2), dh = 0.
    # x edges: centre sigma 1 * 20/10 = 2, size sigma 3/2 * 60 = 90: sqrt(2^2 + 45^2).
    # y edges: centre sigma 2 * 40/5 = 16, size sigma 4/4 * 40 = 40: sqrt(16^2 + 20^2).
    log_variance = 2 * torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()
    sigma = build_box_transform("center_size", WEIGHTS).corner_sigma(
        torch.tensor([[0.7, -0.3, 2 * math.log(3.0), 0.0]]),
        log_variance,
        torch.tensor([[10.0, 20.0, 30.0, 60.0]]),
    )
    x, y = math.sqrt(4 + 45**2), math.sqrt(256 + 400)
    torch.testing.assert_close(sigma, torch.tensor([[x, y, x, y]]))


@pytest.mark.parametrize("name", NAMES)
def test_sigma_is_first_order_propagation_through_the_decoder(name: str) -> None:
    transform = build_box_transform(name, WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    proposal = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    deltas, log_variance = (torch.randn(1, 4, generator=generator) for _ in range(2))
    jacobian = torch.autograd.functional.jacobian(
        lambda d: transform.apply_deltas(d, proposal), deltas
    )[0, :, 0]
    expected = (jacobian.square() @ log_variance.exp()[0]).sqrt()
    sigma = transform.corner_sigma(deltas, log_variance, proposal)
    torch.testing.assert_close(sigma[0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_no_boxes(name: str) -> None:
    transform = build_box_transform(name, WEIGHTS)
    none = torch.zeros(0, 4)
    assert transform.get_deltas(none, none).shape == (0, 4)
    assert transform.apply_deltas(torch.zeros(0, 12), none).shape == (0, 12)
    assert transform.corner_sigma(none, none, none).shape == (0, 4)


@pytest.mark.parametrize("name", NAMES)
def test_low_precision_is_decoded_in_float32(name: str) -> None:
    proposals = torch.tensor([[1000.0, 1000.0, 1021.0, 1007.0]])
    deltas = torch.tensor([[0.1, 0.2, 0.3, -0.4]], dtype=torch.bfloat16)
    transform = build_box_transform(name, WEIGHTS)
    decoded = transform.apply_deltas(deltas, proposals)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, transform.apply_deltas(deltas.float(), proposals))
    assert transform.corner_sigma(deltas, deltas, proposals).dtype == torch.float32


def test_names() -> None:
    assert sorted(name for name, _ in BOX_TRANSFORM_REGISTRY) == sorted(NAMES)
    with pytest.raises(KeyError, match="diagonal"):
        build_box_transform("diagonal", WEIGHTS)
