"""What the student's one forward pass of a step takes in, and what it asks of a method."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from detectron2.structures import ImageList, Instances
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


class Losses(Protocol):
    """What a method makes of the student's predictions."""

    @property
    def rpn_terms(self) -> Collection[str]:
        """Which of the RPN's losses pseudo-labels train: "loss_rpn_cls", "loss_rpn_loc"."""

    def losses(self, labeled: Regions, cls: Regions | None, box: Regions | None) -> StudentLosses:
        """The box head's losses; ``box`` is ``cls`` where the two label sets are one."""


class Mixer(Protocol):
    """Mixes the strong views of a batch with each other or with labeled images.

    It is drawn before the forward pass, so that it draws the same whatever the labels are. A mixed
    image has no matrix of its own: a teacher can not be asked about its regions.
    """

    def images(self, images: ImageList, first: int) -> ImageList:
        """The batch of images, mixed from image ``first`` on."""

    def features(self, features: Features, first: int) -> Features:
        """The feature maps, for methods that take the images of a mixture apart again."""

    def labels(self, labels: list[Instances]) -> list[Instances]:
        """Labels of the mixed images out of those of the strong views."""


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
        return found if self.mixer is None else self.mixer.labels(found)
