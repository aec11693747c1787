"""Figures of a pseudo-label, gathered from the regions that were matched to it."""

from __future__ import annotations

import torch
from detectron2.layers import cat
from detectron2.structures import Instances
from torch import Tensor

from dre_ssod.modeling.regions import Regions


def mean_per_label(values: Tensor, regions: Regions) -> Tensor:
    """The mean of (R,) values over all foreground regions that share a region's label.

    Regions share a label if they are of one image, one class and one matched box. There is neither
    a loop over labels nor a wait for a GPU.

    Returns:
        (R,), 0 for background regions.
    """
    foreground = regions.is_foreground.float()
    sizes = [len(found) for found in regions.sampled]
    parts = zip(
        regions.sampled,
        *(rows.split(sizes) for rows in (values, foreground, regions.classes)),
        strict=True,
    )
    return cat([_mean(f, *rows) for f, *rows in parts])


def _mean(found: Instances, values: Tensor, foreground: Tensor, classes: Tensor) -> Tensor:
    if not found.has("gt_boxes"):
        return torch.zeros_like(values)
    labels = torch.cat([found.gt_boxes.tensor, classes[:, None]], dim=1)
    # In float64, which neither autocast nor TF32 rounds: bounds are compared with these means.
    same = ((labels[:, None] == labels).all(dim=2) * foreground).double()
    means = (same @ values.double()) / same.sum(dim=1).clamp(min=1.0)
    return means.to(values.dtype) * foreground
