"""MixPL, Mixed Pseudo Labels (Chen et al., 2023): pseudo-mixup and pseudo-mosaic.

A mean teacher labels weak views. The student does not learn from their strong views as they are.
Each is mixed up with another one, so that an object that the teacher missed is blurred::

    x = 1/2 x_i + 1/2 x_j          labels of both

and four of them, reduced, make one more image, a mosaic, so that small objects are common. The
losses of the mosaic weigh half of those of the mixed views together.

What is mixed are the strong views of one pass: the loader draws them by (seed, position), so that a
resumed run mixes what it would have mixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import ImageList, Instances
from torch import Tensor

from dre_ssod.methods.mean_teacher import METHODS, Clock, MeanTeacher
from dre_ssod.methods.parts.placing import Mixture, Piece, draw_integer, draw_rectangles
from dre_ssod.modeling.student_batch import Mixer, StudentBatch
from dre_ssod.settings import Number, Numbers, setting


@METHODS.register()
class MixPL(MeanTeacher):
    """Mean teacher on mixtures of strong views, followed every few iterations."""

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        score_threshold: float = setting(
            "SSOD.MIXPL.SCORE_THRESHOLD",
            0.7,
            "tau: from this foreground score on a detection of the teacher becomes a pseudo-label.",
            Number(0.0, 1.0),
        )
        mosaic_weight: float = setting(
            "SSOD.MIXPL.MOSAIC_WEIGHT",
            0.5,
            "Weight of the mosaic's losses against those of all views that are mixed up. 0: no "
            "mosaic.",
            Number(0.0, 1e3),
        )
        mosaic_sides: tuple[float, float] = setting(
            "SSOD.MIXPL.MOSAIC_SIDES",
            (0.3, 0.6),
            "Height and width of a tile of the mosaic, drawn from this range of fractions of the "
            "longest side of the batch. The code draws 400 to 799 pixels, where images have up to "
            "1333.",
            Numbers(0.05, 2.0, fewest=2, most=2, rising="weakly"),
        )
        erase_count: tuple[int, int] = setting(
            "SSOD.MIXPL.ERASE_COUNT",
            (1, 19),
            "Number of rectangles, (smallest, largest), painted over in each piece of a mixture.",
            Numbers(0, 1000, fewest=2, most=2, whole=True, rising="weakly"),
        )
        erase_size: float = setting(
            "SSOD.MIXPL.ERASE_SIZE",
            0.1,
            "Largest side of these rectangles, as a fraction of height and of width.",
            Number(0.0, 1.0),
        )
        max_erased: float = setting(
            "SSOD.MIXPL.MAX_ERASED",
            0.7,
            "Labels of which at least this share is painted over are left out.",
            Number(0.0, 1.0),
        )
        require_labels: bool = setting(
            "SSOD.MIXPL.REQUIRE_LABELS",
            True,
            "The losses of the mixed-up views of a process count only if each of them has a label, "
            "and those of the mosaic only if it has one.",
        )
        ema_interval: int = setting(
            "SSOD.MIXPL.EMA_INTERVAL",
            3,
            "Iterations from one EMA step to the next.",
            Number(1, 10**6),
        )
        ema_gamma: float = setting(
            "SSOD.MIXPL.EMA_GAMMA",
            4.0,
            "gamma: the EMA decay at iteration t is min(EMA.DECAY, 1 - gamma / (gamma + t)).",
            Number(0.0, 1e6, positive=True),
        )

    def mixer(self, clock: Clock) -> PseudoMix:
        """Pseudo-mixup and pseudo-mosaic."""
        return PseudoMix(self.settings)

    def decay(self, clock: Clock) -> float | None:
        """At every third iteration 1 - max(1 - DECAY, gamma / (gamma + t)); a burn-in copies."""
        step = self.ema_step(clock)
        if step == 0 and clock.iteration > 0:
            return 0.0
        if (step + 1) % self.settings.ema_interval:
            return None
        gamma = self.settings.ema_gamma
        return float(min(self.settings.ema_decay, 1.0 - gamma / (gamma + step)))


class PseudoMix(Mixer):
    """Mixes up every strong view with another one, and adds a mosaic of four."""

    def __init__(self, settings: MixPL.Settings) -> None:
        self._settings = settings
        self._mixtures: Sequence[Mixture] = ()
        self._weights: Tensor | None = None

    def images(self, images: ImageList, batch: StudentBatch) -> ImageList:
        """The labeled images, the N strong views mixed up, and the mosaic."""
        first = len(batch.labeled)
        height, width = images.tensor.shape[-2:]
        views = [Piece.whole(number, image) for number, image in enumerate(list(images)[first:])]
        order = torch.randperm(len(views)).tolist()
        partners = dict(zip(order, [*order[1:], order[0]], strict=True))
        mixed = [
            self._mix_up(view, views[partners[view.source]], (height, width)) for view in views
        ]
        if self._settings.mosaic_weight > 0.0:
            order = torch.randperm(len(views)).tolist()
            four = [views[order[place % len(order)]] for place in range(4)]
            mixed.append(self._mosaic(four, max(height, width)))
        canvases, self._mixtures = zip(*mixed, strict=True)
        sizes = images.image_sizes[:first] + [mixture.size for mixture in self._mixtures]
        return ImageList(stack([*images.tensor[:first], *canvases], (height, width)), sizes)

    def labels(self, labels: list[Instances], batch: StudentBatch) -> list[Instances]:
        """The union of the labels of a mixture's pieces, and with it which losses count."""
        most = self._settings.max_erased
        found = [mixture.labels(labels, most) for mixture in self._mixtures]
        self._weights = self._balance([len(boxes) > 0 for boxes in found], len(labels))
        self._weights = self._weights.to(labels[0].gt_classes.device, non_blocking=True)
        return found

    def weights(self) -> Tensor | None:
        """The mean over mixed-up views counts 1, that over the mosaic its own weight."""
        return self._weights

    def _balance(self, has_label: list[bool], views: int) -> Tensor:
        """(N,) weights under which the mean over N images is the sum of the two means."""
        groups = [has_label[:views], has_label[views:]]
        weights = [1.0, self._settings.mosaic_weight]
        return torch.tensor(
            [
                weight * len(has_label) / len(group)
                if all(group) or not self._settings.require_labels
                else 0.0
                for weight, group in zip(weights, groups, strict=True)
                for _ in group
            ]
        )

    def _mix_up(self, view: Piece, other: Piece, batch: tuple[int, int]) -> tuple[Tensor, Mixture]:
        """Half of a view and half of another one, fitted into the batch and flipped."""
        pieces = [self._erase(view), self._erase(other.fitted(*batch).flipped())]
        sides = zip(*(piece.size for piece in pieces), strict=True)
        height, width = (max(pair) for pair in sides)
        canvas = view.image.new_zeros(len(view.image), height, width)
        placed = []
        for piece in pieces:
            left = draw_integer(0, width - piece.size[1])
            top = draw_integer(0, height - piece.size[0])
            placed.append(piece.put(canvas, left, top, 0.5))
        return canvas, Mixture((height, width), placed)

    def _mosaic(self, views: list[Piece], longest: int) -> tuple[Tensor, Mixture]:
        """Four views, fitted into tiles and flipped, whose inner corners meet in the middle."""
        low, high = (round(share * longest) for share in self._settings.mosaic_sides)
        height, width = (draw_integer(max(low, 1), max(high, 1)) for _ in range(2))
        canvas = views[0].image.new_zeros(len(views[0].image), 2 * height, 2 * width)
        placed = []
        for place, view in enumerate(views):
            piece = self._erase(view.fitted(height, width).flipped())
            left = width if place % 2 else width - piece.size[1]
            top = height if place // 2 else height - piece.size[0]
            placed.append(piece.put(canvas, left, top))
        return canvas, Mixture((2 * height, 2 * width), placed)

    def _erase(self, piece: Piece) -> Piece:
        count, largest = self._settings.erase_count, self._settings.erase_size
        return piece.painted_over(draw_rectangles(piece.size, count, largest))


def stack(images: list[Tensor], batch: tuple[int, int]) -> Tensor:
    """(N, C, H, W) of N images (C, h, w) with 0 beside them, at least as large as a batch was.

    Where it must grow, it does so to multiples of the power of two in the batch's own sides: what
    the backbone asks of the sides of a batch, the batch fulfills.
    """
    common = math.gcd(*batch)
    unit = min(common & -common, 128)
    sides = [
        -(-max(side, *(image.shape[axis] for image in images)) // unit) * unit
        for axis, side in zip((1, 2), batch, strict=True)
    ]
    stacked = images[0].new_zeros(len(images), len(images[0]), *sides)
    for row, image in zip(stacked, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return stacked
