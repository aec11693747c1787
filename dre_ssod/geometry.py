"""Box alignment between views of one image, by 3x3 matrices.

Coordinates are continuous as in Detectron2: an image of width w spans [0, w] and a horizontal flip
maps x to w - x. Matrices act on column vectors (x, y, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor


def relative_matrix(source: Tensor, target: Tensor) -> Tensor:
    """The (3, 3) matrix from one view's coordinates to another's: ``target @ inv(source)``.

    Args:
        source, target: (3, 3), each from original pixel coordinates to its view.
    """
    return target @ torch.linalg.inv(source)


def map_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Map (R, 4) boxes (x1, y1, x2, y2): the axis-aligned hull of the four mapped corners.

    The product is taken in float64 and returned in the boxes' own dtype and device.
    """
    if boxes.numel() == 0:
        return boxes.reshape(-1, 4)
    matrix = matrix.to(device=boxes.device, dtype=torch.float64)
    wide = boxes.to(torch.float64)
    corners_x = wide[:, [0, 2, 0, 2]]
    corners_y = wide[:, [1, 1, 3, 3]]
    mapped_x = matrix[0, 0] * corners_x + matrix[0, 1] * corners_y + matrix[0, 2]
    mapped_y = matrix[1, 0] * corners_x + matrix[1, 1] * corners_y + matrix[1, 2]
    hull = torch.stack([mapped_x.amin(1), mapped_y.amin(1), mapped_x.amax(1), mapped_y.amax(1)], 1)
    return hull.to(boxes.dtype)
