"""Box alignment between views of one image, by 3x3 matrices.

Coordinates are continuous as in Detectron2: an image of width w spans [0, w] and a horizontal flip
maps x to w - x. Matrices act on column vectors (x, y, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dre_ssod.structures import View


def relative_matrix(source: Tensor, target: Tensor) -> Tensor:
    """The (3, 3) matrix from one view's coordinates to another's: ``target @ inv(source)``.

    Args:
        source, target: (3, 3), each from original pixel coordinates to its view.
    """
    return target @ torch.linalg.inv(source)


def map_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Map (R, 4) boxes (x1, y1, x2, y2): the axis-aligned hull of the four mapped corners.

    The product is taken in float64 and returned in the boxes' own dtype and device.

    Args:
        boxes: (R, 4).
        matrix: (3, 3), or (R, 3, 3) with one for each box.
    """
    if boxes.numel() == 0:
        return boxes.reshape(-1, 4)
    matrix = matrix.to(boxes.device, torch.float64, non_blocking=True)
    # Columns by name: an index that is a list would be copied to a GPU, for which the host waits.
    x1, y1, x2, y2 = boxes.to(torch.float64).unbind(1)
    corners_x = torch.stack([x1, x2, x1, x2], 1)
    corners_y = torch.stack([y1, y1, y2, y2], 1)
    # (1,) or (R, 1) each.
    xx, xy, x0, yx, yy, y0 = matrix[..., :2, :].flatten(-2)[..., None, :].unbind(-1)
    mapped_x = xx * corners_x + xy * corners_y + x0
    mapped_y = yx * corners_x + yy * corners_y + y0
    hull = torch.stack([mapped_x.amin(1), mapped_y.amin(1), mapped_x.amax(1), mapped_y.amax(1)], 1)
    return hull.to(boxes.dtype)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(R, 4) boxes inside an image of (height, width).

    Detectron2's ``Boxes.clip`` looks whether all are finite, for which the host waits for a GPU.
    """
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(1)
    columns = x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)
    return torch.stack(columns, dim=1)


def align_boxes(
    boxes: Sequence[Tensor], sources: Sequence[View], targets: Sequence[View]
) -> list[Tensor]:
    """Carry the boxes of N images from one view of each to another one, and clip them to it.

    All images at once, without a loop over boxes and without waiting for a GPU.

    Args:
        boxes: N tensors (Ri, 4), in the coordinates of ``sources``.
        sources, targets: N views.

    Returns:
        N tensors (Ri, 4) in the coordinates of ``targets``. A box that has left the view has no
        area.
    """
    counts = torch.tensor([len(rows) for rows in boxes])
    views = zip(sources, targets, strict=True)
    matrices = torch.stack([relative_matrix(s.matrix, t.matrix) for s, t in views])
    limits = torch.tensor([[w, h, w, h] for h, w in (view.size for view in targets)])
    flat = torch.cat(list(boxes))
    counts, matrices, limits = (
        values.to(flat.device, non_blocking=True) for values in (counts, matrices, limits)
    )
    rows = torch.repeat_interleave(counts, output_size=len(flat))
    mapped = map_boxes(flat, matrices[rows])
    clipped = torch.minimum(mapped.clamp(min=0), limits[rows].to(mapped.dtype))
    return list(clipped.split([len(rows) for rows in boxes]))
