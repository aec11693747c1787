"""Views: what an image goes through before a detector sees it, and the matrix that boxes follow.

A recipe says what may happen to an image; :func:`make_view` draws from it. All randomness comes
from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import (
    HFlipTransform,
    ResizeShortestEdge,
    ResizeTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from torch import Tensor

from dre_ssod.data.distortions import GeometricRecipe, random_distortion, require, warp
from dre_ssod.data.photometric import IMAGE_FORMATS, Image, random_photometric
from dre_ssod.geometry import transform_to_matrix
from dre_ssod.structures import View

SAMPLINGS = ("range", "choice")
FLIPS = ("horizontal", "vertical", "none")


@dataclass(frozen=True)
class EraseRecipe:
    """Squares painted over, wholly inside the view.

    Attributes:
        count: (min, max) number of squares.
        size: (min, max) side of a square as a fraction of the view's short side.
    """

    count: tuple[int, int]
    size: tuple[float, float]

    def __post_init__(self) -> None:
        pairs = len(self.count) == 2 and len(self.size) == 2
        require(pairs, "ERASE_COUNT, ERASE_SIZE", (self.count, self.size), "(min, max) each")
        fewest, most = self.count
        require(0 <= fewest <= most, "ERASE_COUNT", self.count, "(min, max), 0 <= min <= max")
        smallest, largest = self.size
        fractions = 0 <= smallest <= largest <= 1
        require(fractions, "ERASE_SIZE", self.size, "(min, max), 0 <= min <= max <= 1")


@dataclass(frozen=True)
class ViewRecipe:
    """What may happen to an image, in this order: flip, resize, distort, erase.

    Attributes:
        short_sides: in pixels; (min, max) for "range", any number of lengths for "choice".
        sampling: "range" (a uniform integer between the two, both included) or "choice".
        max_size: longest side allowed, in pixels; it overrules the short side.
        flip: "horizontal", "vertical" (each with probability 1/2) or "none".
        image_format: channel order of the image, "RGB" or "BGR".
        fill: grey level per channel, in the image's order, of pixels that come from outside and of
            erased squares.
        photometric: whether one photometric operation is applied.
        geometric: None for no distortion. With ``photometric``, the two come in random order.
        erase: None for no erased squares.
    """

    short_sides: tuple[int, ...]
    sampling: str
    max_size: int
    flip: str
    image_format: str
    fill: tuple[int, ...]
    photometric: bool = False
    geometric: GeometricRecipe | None = None
    erase: EraseRecipe | None = None

    def __post_init__(self) -> None:
        sides = self.short_sides
        require(
            self.sampling in SAMPLINGS,
            "INPUT.MIN_SIZE_TRAIN_SAMPLING",
            self.sampling,
            f"one of {SAMPLINGS}",
        )
        require(
            len(sides) > 0 and min(sides) > 0, "INPUT.MIN_SIZE_TRAIN", sides, "positive lengths"
        )
        if self.sampling == "range":
            require(
                len(sides) == 2 and sides[0] <= sides[1],
                "INPUT.MIN_SIZE_TRAIN",
                sides,
                '(min, max) when INPUT.MIN_SIZE_TRAIN_SAMPLING is "range"',
            )
        require(self.max_size > 0, "INPUT.MAX_SIZE_TRAIN", self.max_size, "a positive length")
        require(self.flip in FLIPS, "INPUT.RANDOM_FLIP", self.flip, f"one of {FLIPS}")
        require(
            self.image_format in IMAGE_FORMATS,
            "INPUT.FORMAT",
            self.image_format,
            f"one of {IMAGE_FORMATS}",
        )
        require(
            len(self.fill) == 3 and 0 <= min(self.fill) <= max(self.fill) <= 255,
            "MODEL.PIXEL_MEAN (rounded)",
            self.fill,
            "three grey levels in [0, 255]",
        )

    @classmethod
    def weak(cls, cfg: CfgNode) -> ViewRecipe:
        """The teacher's view: flip and resize."""
        return cls(
            short_sides=_as_tuple(cfg.INPUT.MIN_SIZE_TRAIN),
            sampling=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
            max_size=cfg.INPUT.MAX_SIZE_TRAIN,
            flip=cfg.INPUT.RANDOM_FLIP,
            image_format=cfg.INPUT.FORMAT,
            fill=_mean_colour(cfg),
        )

    @classmethod
    def labeled(cls, cfg: CfgNode) -> ViewRecipe:
        """The labeled view: flip, resize and one photometric operation."""
        return replace(cls.weak(cfg), photometric=cfg.SSOD.LABELED_VIEW.PHOTOMETRIC)

    @classmethod
    def strong(cls, cfg: CfgNode) -> ViewRecipe:
        """The student's view of an unlabeled image: the weak view's steps and all the others."""
        node = cfg.SSOD.STRONG_VIEW
        geometric = GeometricRecipe(node.MAX_TRANSLATE, node.MAX_ROTATE, node.MAX_SHEAR)
        return replace(
            cls.weak(cfg),
            photometric=node.PHOTOMETRIC,
            geometric=geometric if node.GEOMETRIC else None,
            erase=EraseRecipe(tuple(node.ERASE_COUNT), tuple(node.ERASE_SIZE)),
        )


def make_view(image: Image, recipe: ViewRecipe, rng: np.random.Generator) -> View:
    """Draw one view of an image.

    Args:
        image: (H, W, 3) uint8, contiguous, in ``recipe.image_format``; it is not changed.
        recipe: what may happen to it.
        rng: the only source of randomness.

    Returns:
        The view; ``matrix`` is exactly the map that its pixels went through.
    """
    image, matrix = _flip_and_resize(image, recipe, rng)
    steps = ["photometric"] * recipe.photometric + ["geometric"] * (recipe.geometric is not None)
    for step in rng.permutation(steps):
        if step == "photometric":
            image = random_photometric(image, recipe.image_format, rng)
        elif recipe.geometric is not None:
            distortion = random_distortion(image.shape[1], image.shape[0], recipe.geometric, rng)
            image = warp(image, distortion, recipe.fill)
            matrix = torch.from_numpy(distortion) @ matrix
    if recipe.erase is not None:
        image = erase_squares(image, recipe.erase, recipe.fill, rng)
    return View(_to_tensor(image), matrix)


def resize(image: Image, height: int, width: int) -> Image:
    """Bilinear resize, the same picture as Detectron2's at test time (within one grey level).

    Detectron2 resizes with Pillow, whose filter grows with the reduction, so that nothing aliases.
    OpenCV's INTER_LINEAR does the same when it enlarges, several times faster; when it shrinks it
    aliases, and INTER_AREA looks different and is no faster than Pillow.
    """
    if height >= image.shape[0] and width >= image.shape[1]:
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    transform = ResizeTransform(image.shape[0], image.shape[1], height, width)
    return np.asarray(transform.apply_image(image), np.uint8)


def erase_squares(
    image: Image, recipe: EraseRecipe, fill: tuple[int, ...], rng: np.random.Generator
) -> Image:
    """A copy of the image with random squares painted in ``fill``."""
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(recipe.count[0], recipe.count[1], endpoint=True))):
        side = round(rng.uniform(*recipe.size) * min(height, width))
        top = int(rng.integers(height - side, endpoint=True))
        left = int(rng.integers(width - side, endpoint=True))
        image[top : top + side, left : left + side] = fill
    return image


def _flip_and_resize(
    image: Image, recipe: ViewRecipe, rng: np.random.Generator
) -> tuple[Image, Tensor]:
    height, width = image.shape[:2]
    transforms: list[Transform] = []
    if recipe.flip != "none" and rng.random() < 0.5:
        horizontal = recipe.flip == "horizontal"
        image = np.asarray(cv2.flip(image, 1 if horizontal else 0), np.uint8)
        transforms.append(HFlipTransform(width) if horizontal else VFlipTransform(height))
    if recipe.sampling == "range":
        shortest, longest = recipe.short_sides
        short_side = int(rng.integers(shortest, longest, endpoint=True))
    else:
        short_side = int(rng.choice(recipe.short_sides))
    # A very long image can come out less than half a pixel thin.
    shape = ResizeShortestEdge.get_output_shape(height, width, short_side, recipe.max_size)
    new_height, new_width = max(shape[0], 1), max(shape[1], 1)
    transforms.append(ResizeTransform(height, width, new_height, new_width))
    return resize(image, new_height, new_width), transform_to_matrix(TransformList(transforms))


def _to_tensor(image: Image) -> Tensor:
    """(3, H, W), contiguous, of an (H, W, 3) array."""
    planes = np.empty((image.shape[2], image.shape[0], image.shape[1]), np.uint8)
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)


def _as_tuple(sides: int | tuple[int, ...] | list[int]) -> tuple[int, ...]:
    return (sides,) if isinstance(sides, int) else tuple(sides)


def _mean_colour(cfg: CfgNode) -> tuple[int, ...]:
    return tuple(round(value) for value in cfg.MODEL.PIXEL_MEAN)
