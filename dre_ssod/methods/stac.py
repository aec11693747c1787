"""STAC (Sohn et al., 2020): self-training with labels that are made once.

1. A detector is trained on labeled images alone.
2. It labels the unlabeled images, without any view.
3. Another one is trained from the start, on labels and on those pseudo-labels, on strong views.

This file is stage 3. Stages 1 and 2 are a file (``SSOD.STAC.LABELS``) or, where none is named, come
first in the run itself (``engine/stages.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from detectron2.config import CfgNode
from detectron2.structures import Instances

from dre_ssod.data.mappers import LabeledMapper, StoredLabelMapper, UnlabeledViews
from dre_ssod.data.splits.pools import Pools
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.methods.parts.stored_labels import StoredLabels, with_stored_labels
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.settings import ExistingFile, Number, setting
from dre_ssod.structures import UnlabeledSample
from dre_ssod.teacher import CarriedLabels, Labels
from dre_ssod.transfers import to_device


@METHODS.register()
class STAC(MeanTeacher):
    """Plain losses on stored labels. The "teacher" is the student itself, and labels nothing.

    With the public code's halves::

        L = 1/2 * L_s + 1/2 * lambda_u * L_u
    """

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        score_threshold: float = setting(
            "SSOD.STAC.SCORE_THRESHOLD",
            0.9,
            "tau: from this score on a stored detection is a label; an image without any keeps its "
            "best.",
            Number(0.0, 1.0),
        )
        labels: str = setting(
            "SSOD.STAC.LABELS",
            "",
            "COCO file with the scores of the unlabeled images' boxes, as tools/pseudo_label.py "
            'writes it; "": the run trains a detector on the labeled images and labels with it.',
            ExistingFile(),
        )
        own_size: bool = setting(
            "SSOD.STAC.OWN_SIZE",
            False,
            "The run labels images at their own size, as the paper does, whose images are about as "
            "large as its views. False: at INPUT.MIN_SIZE_TEST, as a detector finds little in "
            "images that are much larger or smaller than what it was trained on.",
        )

    uses_teacher: ClassVar[bool] = False
    view_keys: ClassVar[tuple[str, ...]] = ("LABELED_VIEW",)
    # The model that is kept is the student.
    unread = ("ema_decay", "ema_horizon", "burn_in_copy")

    def __init__(self, settings: Any, labels: Path, of_run: bool = False) -> None:
        """
        Args:
            labels: the file of stage 2.
            of_run: whether the run makes it.
        """
        super().__init__(settings)
        self.labels, self.of_run = labels, of_run

    @classmethod
    def from_config(cls, cfg: CfgNode) -> STAC:
        settings = cls.settings_of(cfg)
        made = cls.stored_labels(cfg)
        return cls(settings, made.path if made else Path(settings.labels), made is not None)

    @classmethod
    def stored_labels(cls, cfg: CfgNode) -> StoredLabels | None:
        settings = cls.settings_of(cfg)
        if settings.labels:
            return None
        path = Path(cfg.OUTPUT_DIR) / "stac" / "labels.json"
        return StoredLabels(path, 0 if settings.own_size else cfg.INPUT.MIN_SIZE_TEST)

    # Images and views

    def prepare(self, pools: Pools) -> Pools:
        """Images with at least one stored detection, with those of score >= min(tau, the best)."""
        tau = self.settings.score_threshold
        return with_stored_labels(pools, self.labels, tau, self.of_run)

    def mappers(self, cfg: CfgNode) -> tuple[LabeledMapper, UnlabeledViews]:
        return LabeledMapper.from_config(cfg), StoredLabelMapper(ViewRecipe.weak(cfg))

    # Labels

    def label(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> Labels:
        labels = [to_device(_labels_of(sample), teacher.device) for sample in samples]
        weak = [sample.weak for sample in samples]
        strong = [sample.strong for sample in samples]
        return Labels.single(CarriedLabels(labels, weak, strong), None)

    # Losses

    def full_weight(self, term: str) -> float:
        return 0.5 * super().full_weight(term)

    # Following: the model that is kept is the student

    def decay(self, clock: Clock) -> float:
        return 0.0


def _labels_of(sample: UnlabeledSample) -> Instances:
    if sample.labels is None:
        raise ValueError(
            f"{sample.file_name} has no stored labels, and STAC has no teacher to ask for some"
        )
    return sample.labels
