"""Codings of a box against a proposal, by the name that MODEL.ROI_BOX_HEAD.BOX_TRANSFORM gives.

Every transform has Detectron2's ``get_deltas`` and ``apply_deltas``, and ``corner_sigma``, which
turns the uncertainty of coded offsets into pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from fvcore.common.registry import Registry
from torch import Tensor

from dre_ssod.transfers import filled_like

BOX_TRANSFORM_REGISTRY = Registry("BOX_TRANSFORM")
BOX_TRANSFORM_REGISTRY.__doc__ = "Box codings; an entry is built with ``entry(weights=...)``."


class BoxTransform(Protocol):
    """What the box head needs of a coding."""

    weights: Sequence[float]

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor: ...

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor: ...

    def corner_sigma(self, deltas: Tensor, log_variance: Tensor, boxes: Tensor) -> Tensor: ...


class CornerTransform:
    """Normalized corner offsets: t = w * ((x1' - x1)/W, (y1' - y1)/H, (x2' - x2)/W, (y2' - y2)/H).

    The paper models each of (x1, y1, x2, y2) as a Gaussian (section 3.2), so each offset here moves
    one edge of the box and its variance is that edge's own.

    Args:
        weights: four scale factors, for x1, y1, x2, y2.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = tuple(float(weight) for weight in weights)

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """(R, 4) offsets that turn ``src_boxes`` (R, 4) into ``target_boxes`` (R, 4)."""
        return (target_boxes - src_boxes) / _sides(src_boxes) * filled_like(src_boxes, self.weights)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Exact inverse of :meth:`get_deltas`.

        Args:
            deltas: (R, C * 4), C codings for each box, one per class.
            boxes: (R, 4) proposals.

        Returns:
            (R, C * 4) boxes, at least in float32. A box whose edges have crossed is kept as it is.
        """
        dtype = torch.promote_types(deltas.dtype, torch.float32)
        offsets = deltas.to(dtype).unflatten(1, (deltas.shape[1] // 4, 4))
        boxes = boxes.to(dtype)
        scale = (_sides(boxes) / filled_like(boxes, self.weights)).unsqueeze(1)
        return (boxes.unsqueeze(1) + offsets * scale).reshape(deltas.shape)

    def corner_sigma(self, deltas: Tensor, log_variance: Tensor, boxes: Tensor) -> Tensor:
        """Standard deviation of (x1, y1, x2, y2) in pixels, (R, 4); ``boxes`` are the proposals."""
        sigma = torch.exp(0.5 * log_variance.float())
        return sigma * _sides(boxes.float()) / filled_like(sigma, self.weights)


class CenterSizeTransform(Box2BoxTransform):
    """Detectron2's (dx, dy, dw, dh) coding, with uncertainty carried to the edges.

    An edge is centre +- size / 2, so by first-order propagation of independent errors its variance
    is var(centre) + var(size) / 4, where sigma(size) = size * sigma(dw) / weight.
    """

    def corner_sigma(self, deltas: Tensor, log_variance: Tensor, boxes: Tensor) -> Tensor:
        """Standard deviation of (x1, y1, x2, y2) in pixels, (R, 4); ``boxes`` are the proposals."""
        sigma = torch.exp(0.5 * log_variance.float()) / filled_like(log_variance, self.weights)
        proposal_sides = _sides(boxes.float())[:, :2]
        decoded_sides = _sides(self.apply_deltas(deltas, boxes).float())[:, :2]
        variance = (sigma[:, :2] * proposal_sides).square()
        variance = variance + (0.5 * sigma[:, 2:] * decoded_sides).square()
        return variance.sqrt().repeat(1, 2)


BOX_TRANSFORM_REGISTRY._do_register("corner", CornerTransform)
BOX_TRANSFORM_REGISTRY._do_register("center_size", CenterSizeTransform)


def build_box_transform(name: str, weights: Sequence[float]) -> BoxTransform:
    """The box coding registered as ``name``."""
    return BOX_TRANSFORM_REGISTRY.get(name)(weights=tuple(weights))


def _sides(boxes: Tensor) -> Tensor:
    """(R, 4) of (W, H, W, H)."""
    return (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
