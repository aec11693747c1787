"""From a dataset's dict to what a detector trains on: decode once, then one or two views.

Both mappers of training are called ``mapper(dataset_dict, rng)``: all randomness of a sample comes
from the generator, so that a sample is a function of the dict and the generator's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Boxes, Instances

from dre_ssod.data.images import Pixels, check_shape, check_size, read_image
from dre_ssod.data.records import corners, is_crowd
from dre_ssod.data.views import stac
from dre_ssod.data.views.geometric import Matrix
from dre_ssod.data.views.pixels import PixelRecipe, pixels_alone
from dre_ssod.data.views.views import ViewRecipe, draw_flip, make_pair, make_view
from dre_ssod.geometry import map_boxes
from dre_ssod.structures import FURTHER_VIEWS, UnlabeledSample, View

STORED = "pseudo_labels"
"""Entry of an unlabeled image's dict: labels that were found before training, ``Instances``."""


class UnlabeledViews(Protocol):
    """A mapper of unlabeled images."""

    @property
    def drawn(self) -> Sequence[ViewRecipe]:
        """By which the flip and size of a sample's views are drawn; a strong view of the same
        geometry as the weak one has none of its own."""

    def __call__(self, dataset_dict: dict[str, Any], rng: np.random.Generator) -> UnlabeledSample:
        """Make the views of an image."""


class LabeledMapper:
    """Makes training dicts of Detectron2 out of annotated images."""

    def __init__(self, recipe: ViewRecipe) -> None:
        self.recipe = recipe

    @classmethod
    def from_config(cls, cfg: CfgNode) -> LabeledMapper:
        return cls(ViewRecipe.labeled(cfg))

    def __call__(self, dataset_dict: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Read an image and make its labeled view.

        Args:
            dataset_dict: in Detectron2's format, with ``file_name`` and ``annotations``; it is not
                changed. Crowd regions are left out; masks and keypoints are not read.
            rng: the sample's own generator.

        Returns:
            The dict's other entries with ``height`` and ``width`` of the original image, ``image``
            (3, H, W) uint8, and ``instances`` with ``gt_boxes`` (R, 4), float32, and ``gt_classes``
            (R,), int64, of what is inside the view.

        Raises:
            ValueError: if there is no ``annotations`` entry (an image without objects has an empty
                list).
            dre_ssod.data.images.ImageError: if the file cannot be used as an image or is not of the
                size that the dict states.
        """
        sample, image = self._read(dataset_dict)
        view = make_view(image, self.recipe, rng)
        sample["image"] = view.image
        sample["instances"] = instances_in_view(dataset_dict["annotations"], view)
        return sample

    def _read(self, dataset_dict: dict[str, Any]) -> tuple[dict[str, Any], Pixels]:
        """The dict without its annotations, with the size of the image, and the image."""
        if "annotations" not in dataset_dict:
            raise ValueError(
                f"labeled image {dataset_dict.get('file_name')!r} has no 'annotations' entry; "
                "give it a list (empty for an image without objects), or use its dataset in "
                "DATASETS.UNLABELED"
            )
        sample = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        return sample, _read_checked(sample, self.recipe.image_format, self.recipe.max_size)


class LabeledPairMapper(LabeledMapper):
    """Gives every labeled image twice: a view, and a strong one of the same geometry.

    Both are trained on: the strong view is the sample, the other one of its ``further_views``.
    """

    def __init__(self, recipe: ViewRecipe, pixels: PixelRecipe) -> None:
        super().__init__(recipe)
        self.strengthen = pixels_alone(pixels, recipe.image_format)

    def __call__(self, dataset_dict: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        sample, image = self._read(dataset_dict)
        weak, strong = make_pair(image, self.recipe, self.strengthen, rng)
        instances = instances_in_view(dataset_dict["annotations"], weak)
        first, second = (
            {**sample, "image": view.image, "instances": instances} for view in (strong, weak)
        )
        return {**first, FURTHER_VIEWS: [second]}


class LabeledTwiceMapper(LabeledMapper):
    """Draws two views of every labeled image, one for each of a pair of students.

    That of the second is one of the first's ``further_views``.
    """

    def __call__(self, dataset_dict: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        sample, image = self._read(dataset_dict)
        first, second = (
            {
                **sample,
                "image": view.image,
                "instances": instances_in_view(dataset_dict["annotations"], view),
            }
            for view in (make_view(image, self.recipe, child) for child in rng.spawn(2))
        )
        return {**first, FURTHER_VIEWS: [second]}


class UnlabeledMapper:
    """Makes a weak view of an image, decoded once, and a strong one for each student."""

    def __init__(
        self, weak: ViewRecipe, strong: ViewRecipe, students: int = 1, one_flip: bool = False
    ) -> None:
        """
        Args:
            students: how many strong views there are, one or two.
            one_flip: all views are flipped as the weak one is; else each by a draw of its own.
        """
        if weak.image_format != strong.image_format:
            raise ValueError(
                f"weak views in {weak.image_format} and strong views in {strong.image_format}: the "
                "teacher and the student must see the same channel order"
            )
        self.weak = weak
        self.strong = strong
        self.students = students
        self.one_flip = one_flip

    @classmethod
    def from_config(cls, cfg: CfgNode) -> UnlabeledMapper:
        return cls(ViewRecipe.weak(cfg), ViewRecipe.strong(cfg))

    @property
    def drawn(self) -> Sequence[ViewRecipe]:
        return [self.weak, *[self.strong] * self.students]

    def __call__(self, dataset_dict: dict[str, Any], rng: np.random.Generator) -> UnlabeledSample:
        """Read an image and make its two views.

        Args:
            dataset_dict: with ``file_name``, without ``annotations``.
            rng: the sample's own generator; its first child draws the weak view, the others the
                strong ones, so that neither recipe touches the other's randomness. A flip that is
                common to both comes from the generator itself.

        Raises:
            ValueError: if the dict has an ``annotations`` entry, even an empty one: labels of
                unlabeled images must never get this far.
            dre_ssod.data.images.ImageError: if the file cannot be used as an image.
        """
        max_size = min(self.weak.max_size, self.strong.max_size)
        image = _read_unlabeled(dataset_dict, self.weak.image_format, max_size)
        flipped = draw_flip(self.weak, rng) if self.one_flip else None
        weak_rng, *strong_rngs = rng.spawn(1 + self.students)
        weak = make_view(image, self.weak, weak_rng, flipped)
        strong = [make_view(image, self.strong, child, flipped) for child in strong_rngs]
        return UnlabeledSample(dataset_dict["file_name"], weak, *strong)


class UnlabeledPairMapper:
    """Makes a weak view of an image, and for each student a strong one of the same geometry."""

    def __init__(self, recipe: ViewRecipe, pixels: PixelRecipe, students: int = 1) -> None:
        self.recipe = recipe
        self.students = students
        self.strengthen = pixels_alone(pixels, recipe.image_format)

    @property
    def drawn(self) -> Sequence[ViewRecipe]:
        return [self.recipe]

    def __call__(self, dataset_dict: dict[str, Any], rng: np.random.Generator) -> UnlabeledSample:
        """See :class:`UnlabeledMapper`; the matrices of the views are equal."""
        image = _read_unlabeled(dataset_dict, self.recipe.image_format, self.recipe.max_size)
        views = make_pair(image, self.recipe, self.strengthen, rng, self.students)
        return UnlabeledSample(dataset_dict["file_name"], *views)


class StoredLabelMapper:
    """Makes the views of STAC, for an image whose pseudo-labels are known before training.

    The weak view is the image resized, and the strong one :func:`stac.strengthen` of it.
    """

    def __init__(self, recipe: ViewRecipe) -> None:
        self.recipe = replace(recipe, flip="none")

    @property
    def drawn(self) -> Sequence[ViewRecipe]:
        return [self.recipe]

    def __call__(self, dataset_dict: dict[str, Any], rng: np.random.Generator) -> UnlabeledSample:
        """See :class:`UnlabeledMapper`.

        Args:
            dataset_dict: with ``STORED``, ``Instances`` with ``gt_boxes`` in original pixels; where
                an image is only to be looked at, it may lack them.

        Returns:
            a sample with those ``labels``, in the coordinates of the weak view.
        """
        image = _read_unlabeled(dataset_dict, self.recipe.image_format, self.recipe.max_size)
        stored: Instances | None = dataset_dict.get(STORED)
        boxes = torch.zeros(0, 4) if stored is None else stored.gt_boxes.tensor

        def strengthen(
            placed: Pixels, matrix: Matrix, rng: np.random.Generator
        ) -> tuple[Pixels, Matrix]:
            on_view = map_boxes(boxes.double(), torch.from_numpy(matrix)).numpy()
            return stac.strengthen(placed, on_view, self.recipe.image_format, rng)

        weak, strong = make_pair(image, self.recipe, strengthen, rng)
        labels = None
        if stored is not None:
            labels = Instances(weak.size, **stored.get_fields())
            labels.gt_boxes = Boxes(map_boxes(boxes.double(), weak.matrix).float())
        return UnlabeledSample(dataset_dict["file_name"], weak, strong, labels=labels)


class EvaluationMapper:
    """Detectron2's mapper for testing, with files read as in training."""

    def __init__(self, short_side: int, max_size: int, image_format: str) -> None:
        """
        Args:
            short_side: ``INPUT.MIN_SIZE_TEST``; 0 for no resizing.
            max_size: ``INPUT.MAX_SIZE_TEST``.
            image_format: order of the channels.
        """
        self.resize = ResizeShortestEdge(short_side, max_size, "choice")
        self.max_size = max_size
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> EvaluationMapper:
        return cls(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """The dict without ``annotations``, with ``image`` (3, H, W) uint8 and the original size.

        Raises:
            dre_ssod.data.images.ImageError: if the file cannot be used as an image or is not of the
                size that the dict states.
        """
        sample = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        image = _read_checked(sample, self.image_format, self.max_size)
        resized = self.resize.get_transform(image).apply_image(image)
        sample["image"] = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return sample


def _read_unlabeled(dataset_dict: dict[str, Any], image_format: str, max_size: int) -> Pixels:
    """Read an image whose labels nobody may see."""
    if "annotations" in dataset_dict:
        raise ValueError(
            f"unlabeled image {dataset_dict.get('file_name')!r} carries 'annotations'; "
            "remove the entry where the unlabeled pool is made, so that no label can leak into "
            "training"
        )
    image = read_image(dataset_dict["file_name"], image_format)
    check_shape(dataset_dict["file_name"], image.shape, max_size)
    return image


def _read_checked(sample: dict[str, Any], image_format: str, max_size: int) -> Pixels:
    """Read the image of a dict, which gets its size where it has none."""
    file_name = sample["file_name"]
    image = read_image(file_name, image_format)
    height, width = image.shape[:2]
    sample.setdefault("height", height)
    sample.setdefault("width", width)
    check_size(file_name, image.shape, (sample["height"], sample["width"]))
    check_shape(file_name, image.shape, max_size)
    return image


def instances_in_view(annotations: Sequence[dict[str, Any]], view: View) -> Instances:
    """Ground truth in the coordinates of a view.

    Args:
        annotations: of a record that :func:`dre_ssod.data.usable.usable_records` has let through.
        view: boxes are mapped by its matrix and clipped to its size.

    Returns:
        ``gt_boxes`` (R, 4), float32, and ``gt_classes`` (R,), int64. Left out are crowd regions
        and boxes with nothing inside the view.
    """
    objects = [item for item in annotations if not is_crowd(item)]
    boxes = torch.tensor([corners(item) for item in objects], dtype=torch.float64).reshape(-1, 4)
    classes = torch.tensor([item["category_id"] for item in objects], dtype=torch.int64)
    mapped = Boxes(map_boxes(boxes, view.matrix).to(torch.float32))
    mapped.clip(view.size)
    # The threshold is that of Detectron2's filter_empty_instances.
    visible = mapped.nonempty(threshold=1e-5)
    return Instances(view.size, gt_boxes=mapped[visible], gt_classes=classes[visible])
