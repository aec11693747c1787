"""Pooling of region features: with exact coordinates, and DropBlock of what is pooled."""

from __future__ import annotations

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align


class ExactROIAlign(ROIAlign):
    """Detectron2's RoIAlign, which would round coordinates to the number format of the features.

    Under autocast that would be 16 bits: from 1024 pixels on, bfloat16 has steps of 8 pixels and
    float16 of 1, so features would come from beside the region, and the predicted variance would
    have to cover it. Here the pooling is computed in the coordinates' own format, as torchvision
    does under autocast anyway; features go in and come out in theirs.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """
        Args:
            input: (N, C, H, W) features.
            rois: (R, 5) regions: number of the image, then x1, y1, x2, y2 in pixels of the images.

        Returns:
            (R, C, *output_size), in the format of the features.
        """
        exact = torch.promote_types(input.dtype, rois.dtype)
        pooled: Tensor = roi_align(
            input.to(exact),
            rois.to(exact),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )
        return pooled.to(input.dtype)


def keep_coordinates_exact(pooler: ROIPooler) -> ROIPooler:
    """Exchange the RoIAlign of each level of a pooler, in place; returns the pooler.

    ``ROIPool`` stays: torchvision's own leaves coordinates alone.
    """
    pooler.level_poolers = nn.ModuleList(
        ExactROIAlign(level.output_size, level.spatial_scale, level.sampling_ratio, level.aligned)
        if isinstance(level, ROIAlign)
        else level
        for level in pooler.level_poolers
    )
    return pooler


def drop_block(maps: Tensor, share: float, size: int = 3) -> Tensor:
    """DropBlock (Ghiasi et al., NeurIPS 2018): squares of a map become 0, the rest grows for it.

    The centers of the squares are drawn with the rate
    ``share * H * W / (size^2 * (H - size + 1) * (W - size + 1))``, one mask for each map, and what
    is kept is multiplied by the inverse of the kept share.

    Args:
        maps: (R, C, H, W).
        share: of a map, about, that is dropped; 0 changes nothing.
        size: odd, of a square's side; no larger than a map's.
    """
    if share <= 0.0 or len(maps) == 0:
        return maps
    height, width = maps.shape[-2:]
    inside = (height - size + 1) * (width - size + 1)
    rate = share * height * width / (size**2 * inside)
    centers = torch.rand(len(maps), 1, height - size + 1, width - size + 1, device=maps.device)
    dropped = F.pad((centers < rate).float(), [size // 2] * 4)
    kept = 1.0 - F.max_pool2d(dropped, size, stride=1, padding=size // 2)
    return maps * (kept * (kept.numel() / kept.sum().clamp(min=1.0))).to(maps.dtype)
