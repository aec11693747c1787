"""Views: what an image goes through before a detector sees it, and the matrix that boxes follow.

A recipe says what may happen to an image; :func:`make_view` draws from it. All randomness comes
from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.data.views.geometric import (
    GeometricRecipe,
    Matrix,
    is_whole_shift,
    random_distortion,
    warp,
)
from dre_ssod.data.views.photometric import Image, random_photometric
from dre_ssod.structures import View


@dataclass(frozen=True)
class EraseRecipe:
    """Patches painted over, wholly inside the view and of its shape.

    Attributes:
        count: (min, max) number of patches.
        size: (min, max) height and width of a patch as a fraction of the view's.
    """

    count: tuple[int, int]
    size: tuple[float, float]


PixelChange = Callable[[Image, str, np.random.Generator], Image]
"""Makes another image of the same size out of one of this channel order, which it leaves alone."""


@dataclass(frozen=True)
class ViewRecipe:
    """What may happen to an image, in this order: flip, resize, distort, erase, change pixels.

    Attributes:
        short_sides: in pixels; (min, max) for "range", any number of lengths for "choice".
        sampling: "range" (a uniform integer between the two, both included) or "choice".
        max_size: longest side allowed, in pixels; it overrules the short side.
        long_sides: (min, max) of the long side, a uniform integer of pixels, in place of the three
            above; None: those count.
        flip: "horizontal", "vertical" (each with probability 1/2) or "none".
        image_format: channel order of the image, "RGB" or "BGR".
        fill: gray level per channel, in the image's order, of pixels that come from outside and of
            erased patches.
        photometric: whether one photometric operation is applied.
        geometric: None for no distortion. With ``photometric``, the two come in random order.
        erase: None for no erased patches.
        pixels: a method's own operations, which leave boxes where they are; None for none.
    """

    short_sides: tuple[int, ...]
    sampling: str
    max_size: int
    flip: str
    image_format: str
    fill: tuple[int, ...]
    long_sides: tuple[int, int] | None = None
    photometric: bool = False
    geometric: GeometricRecipe | None = None
    erase: EraseRecipe | None = None
    pixels: PixelChange | None = None

    @classmethod
    def weak(cls, cfg: CfgNode) -> ViewRecipe:
        """The teacher's view: flip and resize."""
        return cls(
            short_sides=_as_tuple(cfg.INPUT.MIN_SIZE_TRAIN),
            sampling=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
            max_size=cfg.INPUT.MAX_SIZE_TRAIN,
            flip=cfg.INPUT.RANDOM_FLIP,
            image_format=cfg.INPUT.FORMAT,
            fill=_mean_color(cfg),
        )

    @classmethod
    def tested(cls, cfg: CfgNode) -> ViewRecipe:
        """The weak view at the size of evaluation, never flipped."""
        return replace(
            cls.weak(cfg),
            short_sides=(cfg.INPUT.MIN_SIZE_TEST,),
            sampling="choice",
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            flip="none",
        )

    @classmethod
    def labeled(cls, cfg: CfgNode) -> ViewRecipe:
        """The labeled view: flip, resize and one photometric operation."""
        node = cfg.SSOD.LABELED_VIEW
        return replace(cls.weak(cfg).sized(*node.LONG_SIDES), photometric=node.PHOTOMETRIC)

    @classmethod
    def strong(cls, cfg: CfgNode) -> ViewRecipe:
        """The student's view of an unlabeled image: the weak view's steps and all the others."""
        node = cfg.SSOD.STRONG_VIEW
        geometric = GeometricRecipe(node.MAX_TRANSLATE, node.MAX_ROTATE, node.MAX_SHEAR)
        return replace(
            cls.weak(cfg).sized(*node.LONG_SIDES),
            photometric=node.PHOTOMETRIC,
            geometric=geometric if node.GEOMETRIC else None,
            erase=EraseRecipe(tuple(node.ERASE_COUNT), tuple(node.ERASE_SIZE))
            if any(node.ERASE_COUNT)
            else None,
        )

    def sized(self, low: int, high: int) -> ViewRecipe:
        """The same with long sides from ``low`` to ``high``, unless they are 0."""
        return replace(self, long_sides=(low, high), max_size=high) if high else self


def make_view(
    image: Image, recipe: ViewRecipe, rng: np.random.Generator, flipped: bool | None = None
) -> View:
    """Draw one view of an image.

    Args:
        image: (H, W, 3) uint8, contiguous, in ``recipe.image_format``; it is not changed.
        recipe: what may happen to it.
        rng: the only source of randomness.
        flipped: whether it is flipped; None: as drawn.

    Returns:
        The view; ``matrix`` is exactly the map that its pixels went through.
    """
    placed, matrix = _draw(image, recipe, rng, flipped)
    return View(_to_tensor(placed), torch.from_numpy(matrix))


Strengthen = Callable[[Image, Matrix, np.random.Generator], tuple[Image, Matrix]]
"""Makes a strong view out of a weak one and its matrix; gives it and the matrix of the change."""


def make_pair(
    image: Image,
    recipe: ViewRecipe,
    strengthen: Strengthen,
    rng: np.random.Generator,
    students: int = 1,
) -> tuple[View, ...]:
    """Draw a view of an image, and a strong one made out of it for each student.

    Args:
        image: as for :func:`make_view`.
        recipe: of the former.
        strengthen: gives an image of the same size and does not change its input.
        rng: its first child draws the view, the others what makes it strong.
        students: how many strong views there are, one or two.
    """
    view_rng, *strong_rngs = rng.spawn(1 + students)
    placed, matrix = _draw(image, recipe, view_rng)
    views = [View(_to_tensor(placed), torch.from_numpy(matrix))]
    for strong_rng in strong_rngs:
        changed, change = strengthen(placed, matrix, strong_rng)
        views.append(View(_to_tensor(changed), torch.from_numpy(change @ matrix)))
    return tuple(views)


def draw_flip(recipe: ViewRecipe, rng: np.random.Generator) -> bool:
    """Whether a view is flipped."""
    return recipe.flip != "none" and bool(rng.random() < 0.5)


def _draw(
    image: Image, recipe: ViewRecipe, rng: np.random.Generator, flipped: bool | None = None
) -> tuple[Image, Matrix]:
    """One view as an (H, W, 3) array, and its (3, 3) matrix."""
    is_flipped = draw_flip(recipe, rng) if flipped is None else flipped
    height, width = draw_size(image.shape[:2], recipe, rng)
    matrix = _flip_and_scale(image.shape[:2], (height, width), recipe.flip if is_flipped else None)
    geometric = recipe.geometric
    steps = ["photometric"] * recipe.photometric + ["geometric"] * (geometric is not None)
    order = rng.permutation(steps).tolist()
    if geometric is not None and order[0] == "geometric":
        # Nothing stands between the resize and the distortion: one warp may do both.
        order.pop(0)
        distortion = random_distortion(width, height, geometric, rng)
        placed = _flip_resize_and_warp(image, matrix, distortion, (height, width), recipe)
        matrix = distortion @ matrix
    else:
        placed = flip_and_resize(image, matrix, height, width)
    for step in order:
        if step == "photometric":
            placed = random_photometric(placed, recipe.image_format, rng)
        elif geometric is not None:
            distortion = random_distortion(width, height, geometric, rng)
            placed = warp(placed, distortion, recipe.fill)
            matrix = distortion @ matrix
    if recipe.erase is not None:
        erase_patches(placed, recipe.erase, recipe.fill, rng)
    if recipe.pixels is not None:
        placed = recipe.pixels(placed, recipe.image_format, rng)
    return placed, matrix


def flip_and_resize(image: Image, matrix: Matrix, height: int, width: int) -> Image:
    """A flipped and resized copy of an image.

    Args:
        matrix: (3, 3), diagonal but for the shift of a flip; it says whether there is one.
        height, width: of the result.
    """
    if matrix[0, 0] < 0:
        image = np.asarray(cv2.flip(image, 1), np.uint8)
    if matrix[1, 1] < 0:
        image = np.asarray(cv2.flip(image, 0), np.uint8)
    return resize(image, height, width)


def resize(image: Image, height: int, width: int) -> Image:
    """Bilinear resize, the same picture as Detectron2's at test time (within two gray levels).

    Detectron2 resizes with Pillow, whose filter grows with the reduction, so that nothing aliases.
    OpenCV's INTER_LINEAR does the same when it enlarges, several times faster; when it shrinks it
    aliases, and INTER_AREA looks different. PyTorch has Pillow's filter, four times faster.
    """
    if height >= image.shape[0] and width >= image.shape[1]:
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    shrunk = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)[0]
    return np.ascontiguousarray(shrunk.permute(1, 2, 0).numpy())


def erase_patches(
    image: Image, recipe: EraseRecipe, fill: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Paint random patches of an image in ``fill``, in place."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(recipe.count[0], recipe.count[1], endpoint=True))):
        size = rng.uniform(*recipe.size)
        rows, columns = round(size * height), round(size * width)
        top = int(rng.integers(height - rows, endpoint=True))
        left = int(rng.integers(width - columns, endpoint=True))
        image[top : top + rows, left : left + columns] = fill


def draw_size(
    image_size: tuple[int, int], recipe: ViewRecipe, rng: np.random.Generator
) -> tuple[int, int]:
    """The (height, width) of a view of an image of this (height, width)."""
    max_size = recipe.max_size
    if recipe.long_sides is not None:
        # As its own limit, a short side is the long one.
        short_side = max_size = int(rng.integers(*recipe.long_sides, endpoint=True))
    elif recipe.sampling == "range":
        shortest, longest = recipe.short_sides
        short_side = int(rng.integers(shortest, longest, endpoint=True))
    else:
        short_side = int(rng.choice(recipe.short_sides))
    height, width = ResizeShortestEdge.get_output_shape(*image_size, short_side, max_size)
    # A very long image can come out less than half a pixel thin.
    return max(height, 1), max(width, 1)


def _flip_and_scale(image_size: tuple[int, int], size: tuple[int, int], flip: str | None) -> Matrix:
    """The (3, 3) matrix of a resize, and of a flip where there is one."""
    matrix = np.diag([size[1] / image_size[1], size[0] / image_size[0], 1.0])
    if flip is not None:
        # x of the image goes to width - x, as Detectron2 has it.
        axis, side = (0, size[1]) if flip == "horizontal" else (1, size[0])
        matrix[axis, axis] *= -1.0
        matrix[axis, 2] = side
    return matrix


def _flip_resize_and_warp(
    image: Image, matrix: Matrix, distortion: Matrix, size: tuple[int, int], recipe: ViewRecipe
) -> Image:
    """The image flipped, resized and distorted: in one pass, unless that would alias or is slower.

    Args:
        matrix: (3, 3), flip and resize.
        distortion: (3, 3), of the resized image.
        size: (height, width) of the result.
    """
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    if shrinks or is_whole_shift(distortion):
        return warp(flip_and_resize(image, matrix, *size), distortion, recipe.fill)
    return warp(image, distortion @ matrix, recipe.fill, size)


def _to_tensor(image: Image) -> Tensor:
    """(3, H, W), contiguous, of an (H, W, 3) array."""
    planes = np.empty((image.shape[2], image.shape[0], image.shape[1]), np.uint8)
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)


def _as_tuple(sides: int | tuple[int, ...] | list[int]) -> tuple[int, ...]:
    return (sides,) if isinstance(sides, int) else tuple(sides)


def _mean_color(cfg: CfgNode) -> tuple[int, ...]:
    return tuple(round(value) for value in cfg.MODEL.PIXEL_MEAN)
