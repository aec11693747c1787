"""Variance voting: detections refined by their overlapping candidates after NMS.

From He et al., *Bounding Box Regression with Uncertainty for Accurate Object Detection* (2019).
Shapes: D detections, M candidates of one image; boxes are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou


def vote_boxes(
    boxes: Tensor,
    classes: Tensor,
    candidates: Tensor,
    candidate_classes: Tensor,
    candidate_sigma: Tensor,
    sigma_t: float,
) -> Tensor:
    """Move each edge to the mean of what the candidates of the box's class say of it.

    A candidate c that overlaps a detection b votes on coordinate k with the weight
    ``exp(-(1 - IoU(b, c))^2 / sigma_t) / sigma_k(c)^2``: near and certain boxes count most.

    Args:
        boxes: (D, 4) detections that survived NMS.
        classes: (D,)
        candidates: (M, 4) boxes before NMS, the detections among them.
        candidate_classes: (M,)
        candidate_sigma: (M, 4) standard deviations in pixels, positive.
        sigma_t: how far a voter may be; close to 0 no box but the detection itself counts.

    Returns:
        (D, 4) of the dtype of ``boxes``. A detection that no candidate overlaps stays as it is.
    """
    # In float64 neither autocast nor TF32 touches the two matrix products below, which would cost
    # whole pixels. Boxes without area have no IoU: NaN, which is not above 0.
    overlap = box_iou(boxes.double(), candidates.double())
    nearness = torch.exp(-(1.0 - overlap).square() / sigma_t)
    votes = (overlap > 0.0) & (classes[:, None] == candidate_classes[None, :])
    nearness = torch.where(votes, nearness, torch.zeros_like(nearness))
    precision = candidate_sigma.double().square().reciprocal()
    weight = nearness @ precision
    mean = (nearness @ (precision * candidates.double())) / weight
    return torch.where(weight > 0.0, mean, boxes.double()).to(boxes.dtype)
