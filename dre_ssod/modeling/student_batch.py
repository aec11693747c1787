"""What the student's one forward pass of a step takes in, and what it asks of a method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, Protocol

from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from dre_ssod.modeling.regions import Ask, Regions
from dre_ssod.structures import StudentLosses

Features = dict[str, Tensor]
"""Feature maps by name, (N, channels, H, W) each."""


class LabelSet(Protocol):
    """Pseudo-labels of N strong views, on their way to the host."""

    def instances(self) -> list[Instances]:
        """N ``Instances`` with ``gt_boxes``, ``gt_classes`` and what else a loss wants to know.

        The first call waits for a GPU to say which boxes there are, so it comes as late as it can;
        later ones give the same list.
        """


class PseudoLabels(Protocol):
    """A label set for each kind of loss, often one object thrice, and a teacher to ask."""

    @property
    def rpn(self) -> LabelSet: ...
    @property
    def cls(self) -> LabelSet: ...
    @property
    def box(self) -> LabelSet: ...
    @property
    def ask(self) -> Ask | None: ...
    @property
    def counts(self) -> Mapping[str, Tensor]: ...


class Losses(Protocol):
    """What a method makes of the student's predictions."""

    @property
    def rpn_terms(self) -> Collection[str]:
        """Which of the RPN's losses pseudo-labels train: "loss_rpn_cls", "loss_rpn_loc"."""

    @property
    def rpn_weights(self) -> str | None:
        """Field of pseudo-labels that weighs the objectness of anchors; None: all weigh 1."""

    def losses(self, labeled: Regions, cls: Regions | None, box: Regions | None) -> StudentLosses:
        """The box head's losses; ``box`` is ``cls`` where the two label sets are one."""


class Mixer(Protocol):
    """Mixes the strong views of one batch with each other or with labeled images.

    A forward pass calls ``images``, ``features`` and ``labels``, in this order; images before the
    strong views stay as they are. What is random is drawn by ``images`` from PyTorch's CPU
    generator. A mixer that reads ``batch.labels`` there makes the host wait for a GPU.

    Subclasses override what they change; the rest stays as it is.
    """

    keeps_places: bool = False
    """Whether the features, in the end, lie where they did in the strong views. If not, the mixed
    images have no matrix, and a teacher cannot be asked about their regions."""

    def images(self, images: ImageList, batch: StudentBatch) -> ImageList:
        """The labeled images and the mixed ones, of which there may be more than strong views."""
        return images

    def features(self, features: Features, batch: StudentBatch) -> Features:
        """The feature maps, for methods that take the images of a mixture apart again."""
        return features

    def labels(self, labels: list[Instances], batch: StudentBatch) -> list[Instances]:
        """Labels of the mixed images out of those of the strong views."""
        return labels

    def weights(self) -> Tensor | None:
        """(N,) weight of each mixed image in all losses; None where all are 1. Asked at the end."""
        return None


@dataclass(frozen=True)
class StudentBatch:
    """What the student's one forward pass of a step needs.

    Attributes:
        labeled: Detectron2 dicts with ``image`` and ``instances``.
        strong: dicts with ``image``: the strong views, one per unlabeled image.
        labels: of the strong views; None where there are none.
        method: whose losses these are; None for the detector's own, on labeled images alone.
        mixer: None where images stay as they are.
    """

    labeled: list[dict[str, Any]]
    strong: list[dict[str, Any]] = field(default_factory=list)
    labels: PseudoLabels | None = None
    method: Losses | None = None
    mixer: Mixer | None = None

    @property
    def ask(self) -> Ask | None:
        """The teacher's opinion of sampled regions; None where there is none to be had."""
        if self.mixer is not None and not self.mixer.keeps_places:
            return partial(_refuse, type(self.mixer).__name__)
        return None if self.labels is None else self.labels.ask

    def read_labels(self) -> tuple[list[Instances], list[Instances], list[Instances]]:
        """Pseudo-labels for the RPN, the classification and the box loss; empty without any.

        Label sets that are one object give one list.
        """
        if self.labels is None:
            nothing: list[Instances] = []
            return nothing, nothing, nothing
        sets = (self.labels.rpn, self.labels.cls, self.labels.box)
        different = {id(labels): labels for labels in sets}
        read = {key: self._read(labels) for key, labels in different.items()}
        rpn, cls, box = (read[id(labels)] for labels in sets)
        return rpn, cls, box

    def _read(self, labels: LabelSet) -> list[Instances]:
        found = labels.instances()
        return found if self.mixer is None else self.mixer.labels(found, self)


@dataclass(frozen=True)
class PairBatch:
    """What a pair of detectors needs for its forward pass of a step: each its own batch."""

    first: StudentBatch
    second: StudentBatch

    @property
    def labels(self) -> PseudoLabels | None:
        """Those of the first detector, the one that is tested."""
        return self.first.labels


def _refuse(mixer: str, boxes: list[Boxes]) -> NoReturn:
    raise ValueError(
        f"{mixer} mixes images, and a mixed image has no matrix that leads to the teacher's view: "
        "what asks the teacher about regions, as PRC does, cannot be combined with it"
    )
