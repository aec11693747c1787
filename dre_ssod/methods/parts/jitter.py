"""Box jitter: boxes are moved a little, and the teacher says each time where it would put them."""

from __future__ import annotations

import torch
from detectron2.layers import cat
from detectron2.structures import Boxes
from torch import Tensor

from dre_ssod.geometry import clip_boxes
from dre_ssod.teacher import TeacherPass


def jittered(boxes: Tensor, times: int, scale: float) -> Tensor:
    """Copies of boxes, each corner moved on its own.

    Args:
        boxes: (R, 4).
        times: copies per box.
        scale: deviation of the normal noise of x1 and x2, in widths, and of y1 and y2, in heights;
            sides below a pixel count as one.

    Returns:
        (R, times, 4), with noise from PyTorch's generator.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0).repeat(1, 2)[:, None]
    noise = torch.randn(len(boxes), times, 4, device=boxes.device)
    return boxes[:, None] + scale * sides * noise


def box_spread(seen: TeacherPass, times: int, scale: float) -> list[Tensor]:
    """How far apart the teacher puts a detection when asked about jittered copies of its box.

    Soft Teacher's regression variance, sigma-bar (its eq. 6 to 8): the standard deviation of each
    coordinate k of the N refined boxes b_n, with mean m, relative to the side s_k of m along which
    it lies (at least a pixel), in place of the paper's (h + w) / 2; the mean of the four::

        u = 1/4 * sum_k sigma_k / s_k,   sigma_k^2 = 1 / (N - 1) * sum_n (b_nk - m_k)^2

    Returns:
        (R,) per image, u.
    """
    found = [detections.gt_boxes.tensor for detections in seen.detections]
    copies = [jittered(boxes, times, scale).reshape(-1, 4) for boxes in found]
    classes = cat([detections.gt_classes for detections in seen.detections])
    of_copies = classes[:, None].expand(-1, times).flatten()
    refined = seen.rescore([Boxes(boxes) for boxes in copies]).refined(of_copies)
    spreads = []
    for boxes, sample in zip(refined.split([len(c) for c in copies]), seen.samples, strict=True):
        by_label = clip_boxes(boxes, sample.weak.size).unflatten(0, (-1, times))
        mean = by_label.mean(dim=1)
        sides = (mean[:, 2:] - mean[:, :2]).clamp(min=1.0).repeat(1, 2)
        squares = (by_label - mean[:, None]).square().sum(dim=1)
        spreads.append(((squares / (times - 1)).sqrt() / sides).mean(dim=1))
    return spreads
