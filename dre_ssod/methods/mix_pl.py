"""MixPL, Mixed Pseudo Labels (Chen et al., 2023): pseudo-mixup and pseudo-mosaic.

A mean teacher labels weak views. The student does not learn from their strong views as they are.
Each is mixed up with an older one, so that an object that the teacher missed is blurred::

    x = 1/2 x_i + 1/2 x_j          labels of both

and four older ones, reduced, make one more image, a mosaic, so that small objects are common. The
losses of the mosaic weigh half of those of the mixed views together.

Each process keeps its newest strong views, as they were before they were mixed, with the labels of
their step. The oldest of these are partners, the newest tiles of the mosaic. Until there are enough
of them the student learns from the views of its step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList, Instances
from torch import Tensor

from dre_ssod.data.mappers import LabeledMapper, UnlabeledMapper, UnlabeledViews
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.parts.older_views import OlderView, OlderViews
from dre_ssod.methods.parts.placing import Mixture, Piece, draw_integer, draw_rectangles
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.methods.parts.thresholds import above
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.student_batch import Mixer, StudentBatch
from dre_ssod.settings import Number, Numbers, refuse, setting
from dre_ssod.structures import TrainingBatch
from dre_ssod.transfers import to_device

TILES = 4
"""Of a mosaic."""


@METHODS.register()
class MixPL(MeanTeacher):
    """Mean teacher on mixtures of strong views, followed every few iterations."""

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        score_threshold: float = setting(
            "SSOD.MIXPL.SCORE_THRESHOLD",
            0.7,
            "tau: a detection of the teacher with a score above it becomes a pseudo-label.",
            Number(0.0, 1.0),
        )
        older_views: int = setting(
            "SSOD.MIXPL.OLDER_VIEWS",
            8,
            "Strong views of earlier steps that a process keeps to mix with; at least as many as "
            "it draws in a step.",
            Number(1, 1000),
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

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._older = OlderViews(settings.older_views)

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        if tuple(cfg.SSOD.STRONG_VIEW.ERASE_COUNT) != (0, 0):
            refuse(
                cfg,
                "SSOD.STRONG_VIEW.ERASE_COUNT",
                "(0, 0), as in configs/methods/MixPL.yaml: MixPL erases in each mixture, leaving "
                "out the labels that it covers (SSOD.MIXPL.ERASE_COUNT)",
            )

    # Views: the strong one is moved as in MMDetection 3, by one of five operations

    def mappers(self, cfg: CfgNode) -> tuple[LabeledMapper, UnlabeledViews]:
        strong = ViewRecipe.strong(cfg)
        if strong.geometric is not None:
            strong = replace(strong, geometric=replace(strong.geometric, lone_shears=True))
        return LabeledMapper.from_config(cfg), UnlabeledMapper(ViewRecipe.weak(cfg), strong)

    @property
    def lowest_score(self) -> float:
        return above(self.settings.score_threshold)

    def student_batch(
        self, teacher: SemiSupervisedRCNN, batch: TrainingBatch, clock: Clock
    ) -> StudentBatch:
        """As a mean teacher's, with pseudo-mixup and pseudo-mosaic."""
        given = super().student_batch(teacher, batch, clock)
        assert isinstance(given, StudentBatch), "a mean teacher has one student"
        if given.labels is None:
            return given
        return replace(given, mixer=PseudoMix(self.settings, self._older, teacher.preprocess_image))

    @property
    def is_warm(self) -> bool:
        """Whether there are views to mix with."""
        return self._older.are_enough

    def state_dict(self) -> dict[str, Any]:
        return {"older_views": self._older.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Earlier checkpoints have none: views gather again.
        if state:
            self._older.load_state_dict(state["older_views"])

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
    """Mixes up every strong view with an older one, and adds a mosaic of four.

    Without enough older views there are the strong views alone, erased.
    """

    def __init__(
        self,
        settings: MixPL.Settings,
        older: OlderViews,
        preprocess: Callable[[list[dict[str, Any]]], ImageList],
    ) -> None:
        """
        Args:
            older: of the steps before; takes in those of this one.
            preprocess: what the detector does to dicts with ``image`` before it looks at them.
        """
        self._settings = settings
        self._older = older
        self._preprocess = preprocess
        self._partners: Sequence[OlderView] = ()
        self._mixtures: Sequence[Mixture] = ()
        self._weights: Tensor | None = None

    def images(self, images: ImageList, batch: StudentBatch) -> ImageList:
        """The labeled images, the N strong views mixed up, and the mosaic."""
        first = len(batch.labeled)
        padded = int(images.tensor.shape[-2]), int(images.tensor.shape[-1])
        views = [Piece.whole(number, image) for number, image in enumerate(list(images)[first:])]
        mixed = (
            self._mix(views, padded) if self._older.suffice_for(len(views)) else self._alone(views)
        )
        canvases, self._mixtures = zip(*mixed, strict=True)
        sizes = images.image_sizes[:first] + [mixture.size for mixture in self._mixtures]
        return ImageList(stack([*images.tensor[:first], *canvases], padded), sizes)

    def labels(self, labels: list[Instances], batch: StudentBatch) -> list[Instances]:
        """The union of the labels of a mixture's pieces, and with it which losses count."""
        most = self._settings.max_erased
        device = labels[0].gt_classes.device
        known = [*labels, *(to_device(view.labels, device) for view in self._partners)]
        found = [mixture.labels(known, most) for mixture in self._mixtures]
        self._weights = self._balance([len(boxes) > 0 for boxes in found], len(labels))
        self._weights = self._weights.to(device, non_blocking=True)
        self._older.add([view["image"] for view in batch.strong], labels)
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

    def _alone(self, views: Sequence[Piece]) -> list[tuple[Tensor, Mixture]]:
        """Views as they are, erased."""
        erased = [self._erase(view) for view in views]
        return [(piece.image, Mixture(piece.size, [piece])) for piece in erased]

    def _mix(self, views: Sequence[Piece], padded: tuple[int, int]) -> list[tuple[Tensor, Mixture]]:
        """The N views, each mixed up with one of the N oldest, and a mosaic of the newest."""
        oldest = _shuffled(self._older.views[: len(views)])
        newest = _shuffled(self._older.views[-TILES:]) if self._settings.mosaic_weight > 0.0 else []
        self._partners = [*oldest, *newest]
        older = [
            Piece.whole(number, self._preprocess([{"image": view.image}])[0])
            for number, view in enumerate(self._partners, start=len(views))
        ]
        partners, tiles = older[: len(views)], older[len(views) :]
        mixed = [self._mix_up(*pair, padded) for pair in zip(views, partners, strict=True)]
        return [*mixed, self._mosaic(tiles, max(padded))] if tiles else mixed

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
        """Views, fitted into four tiles and flipped, whose inner corners meet in the middle."""
        low, high = (round(share * longest) for share in self._settings.mosaic_sides)
        height, width = (draw_integer(max(low, 1), max(high, 1)) for _ in range(2))
        canvas = views[0].image.new_zeros(len(views[0].image), 2 * height, 2 * width)
        placed = []
        # Where fewer are kept than there are tiles, some are seen again.
        for place in range(TILES):
            view = views[place % len(views)]
            piece = self._erase(view.fitted(height, width).flipped())
            left = width if place % 2 else width - piece.size[1]
            top = height if place // 2 else height - piece.size[0]
            placed.append(piece.put(canvas, left, top))
        return canvas, Mixture((2 * height, 2 * width), placed)

    def _erase(self, piece: Piece) -> Piece:
        count, largest = self._settings.erase_count, self._settings.erase_size
        return piece.painted_over(draw_rectangles(piece.size, count, largest))


def _shuffled(views: Sequence[OlderView]) -> list[OlderView]:
    return [views[place] for place in torch.randperm(len(views)).tolist()]


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
