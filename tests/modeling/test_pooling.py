"""Regions far from the origin are pooled from where they are, in every number format."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.modeling.pooling import ExactROIAlign, drop_block, keep_coordinates_exact
from tests.factories import tiny_cfg, tiny_model
from tests.modeling.regions import make_features, make_heads

SIDE = 1344
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
# The features' own rounding is at most half of this, over the largest of them.
STEP = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def features() -> list[Tensor]:
    """Four levels of smooth random maps."""
    generator = torch.Generator().manual_seed(0)
    sides = [int(SIDE * scale) for scale in SCALES]
    return [
        F.interpolate(
            torch.randn(1, 3, side // 4, side // 4, generator=generator),
            size=(side, side),
            mode="bilinear",
        )
        for side in sides
    ]


def boxes() -> list[Boxes]:
    """Of 20 to 300 pixels, with both corners beyond 1024, so that they spread over the levels."""
    generator = torch.Generator().manual_seed(1)
    sides = 20 + 280 * torch.rand(60, 2, generator=generator)
    corners = 1024 + (SIDE - 1024 - sides) * torch.rand(60, 2, generator=generator)
    return [Boxes(torch.cat([corners, corners + sides], dim=1))]


def pool(pooler: ROIPooler, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Pooled features, and the gradient of a weighted sum of them in each level."""
    levels = [level.to(dtype, copy=True).requires_grad_() for level in features()]
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        pooled = pooler(levels, boxes())
    assert pooled.dtype == dtype
    pull = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2))
    (pooled.float() * pull).sum().backward()
    gradients = [level.grad.float() for level in levels if level.grad is not None]
    return pooled.detach().float(), gradients


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def detectron2_pooler() -> ROIPooler:
    return ROIPooler(7, SCALES, sampling_ratio=0, pooler_type="ROIAlignV2")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_and_gradients_are_off_by_their_own_rounding_alone(dtype: torch.dtype) -> None:
    exact = keep_coordinates_exact(detectron2_pooler())
    expected, expected_gradients = pool(exact, torch.float32)
    found, gradients = pool(exact, dtype)
    assert distance(found, expected) < STEP[dtype]
    # No region belongs to the highest levels.
    used = [level for level, gradient in enumerate(expected_gradients) if gradient.any()]
    assert len(used) >= 2
    for level in used:
        assert distance(gradients[level], expected_gradients[level]) < 2 * STEP[dtype]
    # What rounded coordinates do to the same.
    rounded, _ = pool(detectron2_pooler(), dtype)
    assert distance(rounded, expected) > 4 * STEP[dtype]


def test_in_float32_it_is_detectron2s_pooling() -> None:
    found, gradients = pool(keep_coordinates_exact(detectron2_pooler()), torch.float32)
    expected, expected_gradients = pool(detectron2_pooler(), torch.float32)
    assert torch.equal(found, expected)
    assert all(map(torch.equal, gradients, expected_gradients))


def test_a_model_in_half_precision_without_autocast() -> None:
    pooler = keep_coordinates_exact(detectron2_pooler())
    expected = pooler(features(), boxes())
    found = pooler([level.to(torch.bfloat16) for level in features()], boxes())
    assert found.dtype == torch.bfloat16
    assert distance(found.float(), expected) < STEP[torch.bfloat16]


def test_the_detector_pools_with_it() -> None:
    pooler = tiny_model(tiny_cfg()).roi_heads.box_pooler
    assert all(isinstance(level, ExactROIAlign) for level in pooler.level_poolers)
    plain = ROIPooler(3, SCALES, sampling_ratio=2, pooler_type="ROIAlign")
    (first, *_) = keep_coordinates_exact(plain).level_poolers
    assert isinstance(first, ROIAlign)
    assert (first.sampling_ratio, first.aligned, first.spatial_scale) == (2, False, 1 / 4)


def test_dropped_blocks_are_squares_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    found = drop_block(torch.ones(4000, 2, 7, 7), 0.1)
    assert torch.equal(found[:, 0], found[:, 1])
    assert found.mean().item() == pytest.approx(1.0, abs=1e-4)
    dropped = (found[:, 0] == 0.0).float()
    assert 0.05 < dropped.mean().item() < 0.12
    # Whatever is dropped lies in a whole square of 3 x 3 that is.
    whole = 1.0 - F.max_pool2d(1.0 - dropped, 3, stride=1)
    covered = F.max_pool2d(F.pad(whole, [1] * 4), 3, 1, 1)
    assert torch.equal(covered, dropped)


@pytest.mark.parametrize(("count", "share"), [(3, 0.0), (0, 0.5)])
def test_nothing_is_dropped_of_nothing_or_at_share_0(count: int, share: float) -> None:
    maps = torch.rand(count, 2, 7, 7)
    assert drop_block(maps, share) is maps


def test_blocks_are_dropped_in_training_alone() -> None:
    heads = make_heads(**{"MODEL.ROI_BOX_HEAD.DROP_BLOCK": 0.5}).heads
    boxes = [Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]]))]

    def logits() -> torch.Tensor:
        return heads.predict(make_features(1), boxes).logits

    assert not torch.equal(logits(), logits())
    heads.eval()
    assert torch.equal(logits(), logits())
