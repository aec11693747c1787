"""MUM, Mix Image Tiles and UnMix Feature Tiles (Kim et al., CVPR 2022).

Strong views are cut into N_T x N_T tiles, and within groups of N_G images the tiles of one place
change images. The student's features of every FPN level are cut and put back, so that labels,
proposals and image sizes need not change: the harder context is the augmentation. Instead of a
burn-in the teacher starts as a fast average and slows down.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.errors import ConfigError
from dre_ssod.methods.mean_teacher import METHODS
from dre_ssod.methods.parts.schedules import Clock, linear_ramp
from dre_ssod.methods.unbiased.unbiased_teacher import UnbiasedTeacher
from dre_ssod.modeling.student_batch import Features, Mixer, StudentBatch
from dre_ssod.settings import Number, OneOf, setting

logger = logging.getLogger(__name__)


@METHODS.register()
class MUM(UnbiasedTeacher):
    """Unbiased Teacher with mixed tiles, whose EMA ramps up in place of a burn-in."""

    @dataclass(frozen=True)
    class Settings(UnbiasedTeacher.Settings):
        tiles: int = setting(
            "SSOD.MUM.TILES",
            4,
            "N_T: tiles along each side of a batch of images. Images are padded to multiples of "
            "32, so each of these divides them.",
            OneOf((1, 2, 4, 8, 16, 32)),
        )
        group: int = setting(
            "SSOD.MUM.GROUP",
            4,
            "N_G: strong views of a pass that exchange tiles with each other. What remains of the "
            "views of a process after the last full group stays as it is.",
            Number(1, 1024),
        )
        probability: float = setting(
            "SSOD.MUM.PROBABILITY", 1.0, "Share of passes that are mixed at all.", Number(0.0, 1.0)
        )
        ramp_start: float = setting(
            "SSOD.MUM.RAMP_START", 0.5, "EMA decay at the start of the ramp.", Number(0.0, 1.0)
        )
        ramp_iters: int = setting(
            "SSOD.MUM.RAMP_ITERS",
            2000,
            "D: iterations until the EMA decay has risen from RAMP_START to EMA.DECAY; in the "
            "published runs as many as Unbiased Teacher's burn-in.",
            Number(0, 10**9),
        )

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        ramp, left = cfg.SSOD.MUM.RAMP_ITERS, cfg.SOLVER.MAX_ITER - cfg.SSOD.BURN_IN_ITERS
        if ramp > left:
            logger.warning(
                "The teacher of MUM is its student almost until the end: the ramp of its average, "
                "SSOD.MUM.RAMP_ITERS, takes %d iterations, and the run has %d. In the paper it "
                "takes as many as the burn-in of Unbiased Teacher that it replaces.",
                ramp,
                left,
            )

    def check_pass(self, unlabeled: int) -> None:
        """Refuse a pass in which no image exchanges tiles, and warn of images that never do."""
        if self.settings.probability == 0.0:
            return
        group, left = self.settings.group, unlabeled % self.settings.group
        draws = f"a process draws {unlabeled} unlabeled images for a pass"
        if unlabeled < group:
            raise ConfigError(
                f"SSOD.MUM.GROUP is {group}, but {draws}, so that none would exchange tiles: lower "
                "SSOD.MUM.GROUP, or have more images in a pass (SOLVER.IMS_PER_BATCH, fewer "
                "processes, SOLVER.ACCUMULATION_STEPS)"
            )
        if left:
            logger.warning(
                "%s, of which %d exchange no tiles: SSOD.MUM.GROUP is %d. Choose a divisor.",
                draws.capitalize(),
                left,
                group,
            )

    def mixer(self, clock: Clock) -> Tiles | None:
        """Mixed tiles, with the given probability; none where each image is a group of its own."""
        if self.settings.group == 1 or torch.rand(()).item() >= self.settings.probability:
            return None
        return Tiles(self.settings.tiles, self.settings.group)

    copies_early = False

    def decay(self, clock: Clock) -> float:
        """Step 0 copies the student; then keep(t) = start + (max - start) * t / D for t < D."""
        step = self.ema_step(clock)
        if step == 0:
            return 0.0
        start, end = self.settings.ramp_start, self.settings.ema_decay
        return start + (end - start) * linear_ramp(step, self.settings.ramp_iters)


class Tiles(Mixer):
    """Exchanges tiles of images, and the same tiles of their features back."""

    keeps_places = True

    def __init__(self, tiles: int, group: int) -> None:
        """
        Args:
            tiles: N_T, along each side.
            group: N_G, images that exchange tiles.
        """
        self._tiles = tiles
        self._group = group
        self._permutation: Tensor | None = None

    def images(self, images: ImageList, batch: StudentBatch) -> ImageList:
        """Draw an exchange for each group and place, and mix the strong views, in place."""
        strong = images.tensor[len(batch.labeled) :]
        height, width = strong.shape[-2:]
        if height % self._tiles or width % self._tiles:
            raise ConfigError(
                f"SSOD.MUM.TILES is {self._tiles}, which does not divide the {height} x {width} "
                "pixels of a batch: choose a divisor of what the backbone pads images to"
            )
        self._permutation = draw_exchange(len(strong) // self._group, self._group, self._tiles)
        strong.copy_(exchange_tiles(strong, self._permutation))
        return images

    def features(self, features: Features, batch: StudentBatch) -> Features:
        """The feature maps of every level with each tile back in its image."""
        assert self._permutation is not None, "images are mixed before their features are unmixed"
        first, back = len(batch.labeled), self._permutation.argsort(dim=1)
        return {
            name: torch.cat([maps[:first], unmix(maps[first:], back)])
            for name, maps in features.items()
        }


def draw_exchange(groups: int, size: int, tiles: int) -> Tensor:
    """(groups, size, tiles, tiles): for each group and place a permutation of its images."""
    return torch.rand(groups, size, tiles, tiles).argsort(dim=1)


def exchange_tiles(maps: Tensor, permutation: Tensor) -> Tensor:
    """Tile (i, j) of image g of group b becomes that of image ``permutation[b, g, i, j]`` of b.

    Args:
        maps: (N, C, H, W) with H and W multiples of the number of tiles.
        permutation: (groups, size, tiles, tiles); images after the last group stay as they are.
    """
    groups, size, tiles = permutation.shape[:3]
    mixed = groups * size
    if mixed == 0:
        return maps
    grid = maps[:mixed].unflatten(-1, (tiles, -1)).unflatten(-3, (tiles, -1))
    # (groups, size, C, tiles, h, tiles, w), and the same places of the permutation.
    grid = grid.unflatten(0, (groups, size))
    rows = permutation.to(maps.device, non_blocking=True)[:, :, None, :, None, :, None]
    moved = torch.take_along_dim(grid, rows, dim=1).reshape(maps[:mixed].shape)
    return torch.cat([moved, maps[mixed:]])


def unmix(maps: Tensor, permutation: Tensor) -> Tensor:
    """:func:`exchange_tiles` for feature maps of any size.

    A map whose sides the tiles do not divide is resized to the next smaller size that they do, and
    resized back afterwards. In groups of one image nothing changes.
    """
    (groups, size, tiles), shape = permutation.shape[:3], maps.shape[-2:]
    mixed = groups * size
    fitting = [max(side // tiles, 1) * tiles for side in shape]
    if size == 1:
        return maps
    if mixed == 0 or fitting == list(shape):
        return exchange_tiles(maps, permutation)
    fitted = F.interpolate(maps[:mixed], fitting, mode="bilinear", align_corners=False)
    moved = exchange_tiles(fitted, permutation)
    # Under autocast a GPU resizes in float32, by which this level would differ from the others.
    resized = F.interpolate(moved, shape, mode="bilinear", align_corners=False).to(maps.dtype)
    return torch.cat([resized, maps[mixed:]])
