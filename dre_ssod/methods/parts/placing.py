"""Pieces of images on a canvas, and the labels that come with them.

Images are (C, H, W), normalized, with 0 beside them; coordinates are continuous. Boxes follow the
matrix of their piece, as they do between the views of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import pairwise_intersection
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.geometry import clip_boxes, map_boxes
from dre_ssod.transfers import chosen

MIN_SIDE = 1.0
"""A label with a side below this many pixels of the canvas has left it."""


@dataclass(frozen=True)
class Piece:
    """A strong view, or a part of it, on its way to a canvas.

    Attributes:
        source: which view it was.
        image: (C, h, w).
        matrix: (3, 3) float64 on the host, from the view's coordinates to those of the piece.
        erased: (E, 4) rectangles of the piece that were painted over.
    """

    source: int
    image: Tensor
    matrix: Tensor
    erased: Tensor

    @classmethod
    def whole(cls, source: int, image: Tensor) -> Piece:
        """A view as it is."""
        return cls(source, image, torch.eye(3, dtype=torch.float64), torch.zeros(0, 4))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    def flipped(self) -> Piece:
        """Its mirror image: x goes to width - x."""
        mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
        mirror[0, 2] = self.size[1]
        return self._moved(self.image.flip(-1), mirror)

    def fitted(self, height: int, width: int) -> Piece:
        """Resized to the largest size with its aspect ratio inside ``height`` and ``width``.

        By the nearest pixel.
        """
        scale = min(height / self.size[0], width / self.size[1])
        size = [max(round(side * scale), 1) for side in self.size]
        factors = [size[1] / self.size[1], size[0] / self.size[0], 1.0]
        image = F.interpolate(self.image[None], size, mode="nearest-exact")[0]
        return self._moved(image, torch.diag(torch.tensor(factors, dtype=torch.float64)))

    def painted_over(self, rectangles: Tensor) -> Piece:
        """With (E, 4) further rectangles of whole pixels erased, which means 0."""
        image = self.image.clone()
        for x1, y1, x2, y2 in rectangles.long().tolist():
            image[:, y1:y2, x1:x2] = 0.0
        return replace(self, image=image, erased=torch.cat([self.erased, rectangles]))

    def put(self, canvas: Tensor, left: int, top: int, factor: float = 1.0) -> Piece:
        """Add it, times ``factor``, to a (C, H, W) canvas; gives the piece in its coordinates."""
        height, width = self.size
        canvas[:, top : top + height, left : left + width] += factor * self.image
        shift = torch.eye(3, dtype=torch.float64)
        shift[0, 2], shift[1, 2] = left, top
        return self._moved(self.image, shift)

    def labels(self, found: Instances, size: tuple[int, int], max_erased: float) -> Instances:
        """The labels of its view, on a canvas of this (height, width).

        Those that have left the canvas go, and those of which at least ``max_erased`` of the area
        is painted over; where rectangles overlap, their areas add up.
        """
        boxes = Boxes(clip_boxes(map_boxes(found.gt_boxes.tensor, self.matrix), size))
        erased = Boxes(self.erased.to(boxes.device, non_blocking=True))
        hidden = pairwise_intersection(boxes, erased).sum(dim=1)
        kept = boxes.nonempty(MIN_SIDE) & (hidden < max_erased * boxes.area())
        return chosen(Instances(size, gt_boxes=boxes, gt_classes=found.gt_classes), kept)

    def _moved(self, image: Tensor, matrix: Tensor) -> Piece:
        erased = map_boxes(self.erased, matrix)
        return replace(self, image=image, matrix=matrix @ self.matrix, erased=erased)


@dataclass(frozen=True)
class Mixture:
    """A mixed image, apart from its pixels.

    Attributes:
        size: (height, width).
        pieces: of which it consists, in its coordinates.
    """

    size: tuple[int, int]
    pieces: Sequence[Piece]

    def labels(self, labels: Sequence[Instances], max_erased: float) -> Instances:
        """The labels of all its pieces, given those of the strong views."""
        return Instances.cat(
            [piece.labels(labels[piece.source], self.size, max_erased) for piece in self.pieces]
        )


def draw_rectangles(size: tuple[int, int], count: tuple[int, int], largest: float) -> Tensor:
    """(E, 4) random rectangles of whole pixels inside an image, of its own aspect ratio.

    Args:
        size: (height, width) of the image.
        count: (smallest, largest) number of rectangles.
        largest: their sides are up to this fraction of the image's, uniformly drawn.
    """
    number = draw_integer(*count)
    sides = torch.tensor([size[1], size[0]])
    extent = (torch.rand(number, 1) * largest * sides).floor()
    corner = (torch.rand(number, 2) * (sides - extent + 1)).floor()
    return torch.cat([corner, corner + extent], dim=1)


def draw_integer(low: int, high: int) -> int:
    """A uniform integer from ``low`` to ``high``, both included, by PyTorch's CPU generator."""
    return int(torch.randint(low, high + 1, ()))
