"""What teacher and student make of unlabeled images, computed beside training.

Nothing here changes a model, a random state or the event storage of a run, and no other process is
waited for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dre_ssod.geometry import align_boxes
from dre_ssod.methods import Clock, MeanTeacher
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.regions import Regions
from dre_ssod.structures import UnlabeledSample
from dre_ssod.teacher import Labels


@dataclass(frozen=True)
class Inspection:
    """One unlabeled image as a training step sees it.

    Attributes:
        sample: its two views.
        weak_labels: the method's pseudo-labels for classification, in the weak view.
        strong_labels: those that the student learns from, in the strong view.
        proposals: R sampled proposals of the student in the strong view: ``proposal_boxes``,
            ``gt_classes`` (R,), K for background, and ``weight`` (R,) where the method weighs them
            (``region_weights``).
    """

    sample: UnlabeledSample
    weak_labels: Instances
    strong_labels: Instances
    proposals: Instances

    def proposals_on_weak_view(self) -> Boxes:
        """The proposals' boxes mapped strong -> weak and clipped, as the teacher scores them."""
        boxes = self.proposals.proposal_boxes.tensor
        (aligned,) = align_boxes([boxes], [self.sample.strong], [self.sample.weak])
        return Boxes(aligned)


@torch.no_grad()
def inspect(
    teacher: SemiSupervisedRCNN,
    student: SemiSupervisedRCNN,
    samples: Sequence[UnlabeledSample],
    method: MeanTeacher,
    clock: Clock,
    seed: int,
) -> list[Inspection]:
    """Pseudo-labels, sampled proposals and their weights, by the method of the training step.

    The proposals are a draw of their own, by the same rule as the step's. Runs in full precision.

    Args:
        teacher: in eval mode.
        student: in training mode, without its DDP wrapper.
        samples: N unlabeled images, at least one.
        method: of the run.
        clock: where in its schedule the run is.
        seed: of the draw.

    Returns:
        N inspections, with tensors on the CPU.
    """
    devices = [student.device] if student.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), EventStorage(), _norms_at_rest(student):
        torch.manual_seed(seed)
        labels = method.label(teacher, samples, clock)
        strong_labels = labels.cls.instances()
        regions = _sample_regions(student, samples, labels)
        sampled = regions.sampled
        weights = method.region_weights(regions)
        if weights is not None:
            _split_into(sampled, weights)
    return [
        Inspection(sample, weak.to("cpu"), strong.to("cpu"), proposals.to("cpu"))
        for sample, weak, strong, proposals in zip(
            samples, labels.cls.origin, strong_labels, sampled, strict=True
        )
    ]


@contextmanager
def _norms_at_rest(model: nn.Module) -> Iterator[None]:
    """Norms that learn must neither see these images twice nor wait for other processes.

    All other layers keep the mode of training, which sets how many proposals there are.
    """
    learning = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.training]
    for norm in learning:
        norm.eval()
    try:
        yield
    finally:
        for norm in learning:
            norm.train()


def _sample_regions(
    student: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], labels: Labels
) -> Regions:
    """Sampled regions of the strong views, labeled by the pseudo-labels, as the student trains."""
    images = student.preprocess_image([{"image": s.strong.image} for s in samples])
    features = student.backbone(images.tensor)
    targets = labels.cls.instances()
    proposals, _ = student.proposal_generator(images, features, targets)
    _, regions, _ = student.roi_heads.sample_regions(
        features, proposals, [], targets, targets, labels.ask, everywhere=False
    )
    assert regions is not None, "samples are never empty here"
    return regions


def _split_into(sampled: list[Instances], weights: Tensor) -> None:
    parts = weights.split([len(p) for p in sampled])
    for proposals, part in zip(sampled, parts, strict=True):
        proposals.weight = part
