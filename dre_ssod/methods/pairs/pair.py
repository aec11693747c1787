"""What methods of two detectors share: each has its own images, labels and mixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detectron2.structures import Instances
from torch import Tensor

from dre_ssod.methods.mean_teacher import MeanTeacher
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.student_batch import PairBatch, StudentBatch
from dre_ssod.structures import TrainingBatch, UnlabeledSample
from dre_ssod.teacher import Labels, TeacherPass

Found = tuple[TeacherPass, Sequence[Instances]]
"""Labels on the weak views, and the teacher's pass that they come from."""


class Pair(MeanTeacher):
    """Base of methods of a pair: the first detector is the one that is tested and looked at."""

    architecture = "PairedRCNN"

    def find(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> tuple[Found, Found]:
        """Labels for the first and for the second student."""
        raise NotImplementedError

    def counts(
        self, found: tuple[Found, Found], samples: Sequence[UnlabeledSample]
    ) -> Mapping[str, Tensor]:
        """What a step that learns from these labels counts: here nothing."""
        return {}

    def labeled_views(
        self, batch: TrainingBatch
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The labeled views of each student: here all for both."""
        return batch.labeled_views, batch.labeled_views

    def label(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> Labels:
        """Labels for the first student."""
        (seen, labels), _ = self.find(teacher, samples, clock)
        return Labels.single(seen.carry(labels), seen.score)

    def student_batch(
        self, teacher: SemiSupervisedRCNN, batch: TrainingBatch, clock: Clock
    ) -> PairBatch:
        labeled = self.labeled_views(batch)
        if not batch.unlabeled:
            return PairBatch(*(StudentBatch(views, method=self) for views in labeled))
        shown = batch.unlabeled, [sample.for_second() for sample in batch.unlabeled]
        batches = []
        found = self.find(teacher, batch.unlabeled, clock)
        counts = self.counts(found, batch.unlabeled)
        for views, samples, (seen, labels) in zip(labeled, shown, found, strict=True):
            seen = replace(seen, samples=samples)
            carried = Labels.single(seen.carry(labels), seen.score, counts)
            batches.append(self.with_labels(views, samples, carried, clock))
        return PairBatch(*batches)
