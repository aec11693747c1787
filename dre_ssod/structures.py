"""What flows between the loader, the teacher and the student.

Shape letters used throughout the package: N images, R regions (proposals or boxes), K foreground
classes; class index K is the background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from detectron2.structures import Instances
from torch import Tensor


@dataclass(frozen=True)
class View:
    """One augmented view of an image.

    Attributes:
        image: (3, H, W) uint8, channels in the order of ``INPUT.FORMAT``.
        matrix: (3, 3) float64, maps original pixel coordinates (x, y, 1) to view coordinates.
    """

    image: Tensor
    matrix: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    def pin_memory(self) -> View:
        """A copy in pinned memory, from which a GPU copies while the host continues."""
        return View(self.image.pin_memory(), self.matrix)


@dataclass(frozen=True)
class UnlabeledSample:
    """One unlabeled image: the teacher sees ``weak``, the student ``strong``. Never a true label.

    Attributes:
        second: the strong view of the second of a pair of students; None: the first's.
        labels: pseudo-labels that were found before training, with ``gt_*`` fields, in the
            coordinates of ``weak``; None where a teacher labels.
    """

    file_name: str
    weak: View
    strong: View
    second: View | None = None
    labels: Instances | None = None

    def for_second(self) -> UnlabeledSample:
        """The same image as the second of a pair of students sees it."""
        return self if self.second is None else replace(self, strong=self.second)

    def pin_memory(self) -> UnlabeledSample:
        """The same with its views where a GPU copies from."""
        second = None if self.second is None else self.second.pin_memory()
        weak, strong = self.weak.pin_memory(), self.strong.pin_memory()
        return replace(self, weak=weak, strong=strong, second=second)


@dataclass(frozen=True)
class ImageFailure:
    """An image that was drawn for a batch and could not be used.

    Attributes:
        file_name: of the image.
        message: what is wrong with it.
        replaced: whether another image took its place; if not, the batch lacks one.
    """

    file_name: str
    message: str
    replaced: bool = True


@dataclass(frozen=True)
class TrainingBatch:
    """What the loader yields for one forward pass on one process.

    Attributes:
        labeled: dicts as Detectron2's ``DatasetMapper`` makes them (``image``, ``instances``, ...);
            a method that trains on several views of an image has the others in its
            ``further_views``.
        unlabeled: empty in the supervised baseline and during burn-in.
        failures: images that others were drawn for.
    """

    labeled: list[dict[str, Any]]
    unlabeled: list[UnlabeledSample] = field(default_factory=list)
    failures: tuple[ImageFailure, ...] = ()

    @property
    def labeled_views(self) -> list[dict[str, Any]]:
        """All views of all labeled images."""
        return [view for image in self.labeled for view in (image, *image.get(FURTHER_VIEWS, ()))]

    def pin_memory(self) -> TrainingBatch:
        """The same with its images where a GPU copies from; PyTorch's loader calls it."""
        labeled = [_pinned(image) for image in self.labeled]
        unlabeled = [sample.pin_memory() for sample in self.unlabeled]
        return replace(self, labeled=labeled, unlabeled=unlabeled)


FURTHER_VIEWS = "further_views"


def _pinned(image: dict[str, Any]) -> dict[str, Any]:
    pinned = {**image, "image": image["image"].pin_memory()}
    if FURTHER_VIEWS in image:
        pinned[FURTHER_VIEWS] = [_pinned(view) for view in image[FURTHER_VIEWS]]
    return pinned


@dataclass(frozen=True)
class Mean:
    """A mean still in two parts, so that it can be averaged over processes and steps."""

    total: Tensor
    count: Tensor

    @classmethod
    def of(cls, values: Tensor, chosen: Tensor | None = None) -> Mean:
        """The mean of (R,) values, or of those that (R,) booleans choose.

        Picking them out would make the host wait for a GPU to count them.
        """
        values = values.detach().float()
        if chosen is None:
            count = torch.full((), float(values.numel()), device=values.device)
            return cls(values.sum(), count)
        return cls(torch.where(chosen, values, 0.0).sum(), chosen.sum().float())


UNSUPERVISED = "_unsup"


@dataclass
class StudentLosses:
    """Losses of one forward pass and the figures that explain them.

    Attributes:
        supervised: terms of L_s (DRE's eq. 1) and the RPN's, by name.
        unsupervised: terms of L_u (DRE's eq. 2) and the RPN's, before beta, their names ending in
            ``UNSUPERVISED``; empty without unlabeled images.
        figures: detached diagnostics by name.
        counts: what the method counts of the unlabeled images, by name.
    """

    supervised: dict[str, Tensor] = field(default_factory=dict)
    unsupervised: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Mean] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)

    def merge(self, other: StudentLosses) -> None:
        """Add the terms of ``other``, whose names must be new."""
        for name in ("supervised", "unsupervised", "figures", "counts"):
            mine, theirs = getattr(self, name), getattr(other, name)
            clash = mine.keys() & theirs.keys()
            if clash:
                raise ValueError(f"{name}: {sorted(clash)} named twice")
            mine.update(theirs)

    def add(self, other: StudentLosses) -> None:
        """Sum up with ``other``, term by term; figures become means over both."""
        for mine, theirs in (
            (self.supervised, other.supervised),
            (self.unsupervised, other.unsupervised),
        ):
            for name, value in theirs.items():
                mine[name] = mine[name] + value
        for name, mean in other.figures.items():
            own = self.figures[name]
            self.figures[name] = Mean(own.total + mean.total, own.count + mean.count)

    def total(self, weight: Weight) -> Tensor:
        """L = L_s + beta * L_u (DRE's eq. 3; Soft Teacher's alpha), a scalar.

        Args:
            weight: of a term by its name: 1, or beta.
        """
        return torch.stack(weighted(self.supervised | self.unsupervised, weight)).sum()


Weight = Callable[[str], float]
"""What a term of the total loss is multiplied by, given its name."""
T = TypeVar("T", Tensor, float)


def weighted(terms: Mapping[str, T], weight: Weight) -> list[T]:
    """The summands of DRE's eq. 3."""
    return [weight(name) * value for name, value in terms.items()]
