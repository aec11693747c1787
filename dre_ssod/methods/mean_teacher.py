"""The plain mean teacher, and with it what a method decides: five moments of a step.

A method is one file, a class and its settings. It overrides the moments that its paper changes:

1. *views*: what an image goes through before teacher and student see it (``mappers``);
2. *labels*: what the teacher's detections become (``label``);
3. *mixing*: of the images of a batch (``mixer``);
4. *losses*: of the student's regions (``unlabeled_losses``, ``full_weight``, ``rpn_terms``);
5. *following*: how the teacher follows the student (``decay``).

Whoever shows, measures or times pseudo-labels asks the method for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

from dre_ssod.data.mappers import LabeledMapper, UnlabeledMapper, UnlabeledViews
from dre_ssod.data.splits.pools import Pools
from dre_ssod.methods.parts.pcv import consistency_weights
from dre_ssod.methods.parts.schedules import Clock, ema_decay, horizon_decay, linear_ramp
from dre_ssod.methods.parts.stored_labels import StoredLabels
from dre_ssod.methods.parts.teacher_settings import TeacherSettings
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.refinement import PLAIN, Refinement
from dre_ssod.modeling.regions import Regions, labeled_losses
from dre_ssod.modeling.student_batch import Mixer, PairBatch, StudentBatch
from dre_ssod.settings import key_of, read_settings
from dre_ssod.structures import UNSUPERVISED, Mean, StudentLosses, TrainingBatch, UnlabeledSample
from dre_ssod.teacher import Labels, observe

METHODS = Registry("METHOD")
METHODS.__doc__ = "Semi-supervised methods, by the name that SSOD.METHOD gives."


@METHODS.register()
class MeanTeacher:
    """Teacher and student alone: every detection from tau on teaches as a label does.

    The base of all methods. Subclasses must not keep what a resumed run would lose: state that
    steps change goes through :meth:`state_dict`.
    """

    @dataclass(frozen=True)
    class Settings(TeacherSettings):
        """What all methods share; each adds its own."""

    architecture: ClassVar[str] = "SemiSupervisedRCNN"
    """The ``MODEL.META_ARCHITECTURE`` that it trains; of another one parts would never learn."""
    uses_unlabeled: ClassVar[bool] = True
    """Whether unlabeled images are loaded at all."""
    rpn_weights: ClassVar[str | None] = None
    """Field of pseudo-labels that weighs the objectness loss of the anchors; None: all weigh 1."""
    uses_teacher: ClassVar[bool] = True
    """Whether the teacher labels unlabeled images."""
    score_bounds: ClassVar[tuple[str, ...]] = ("score_threshold",)
    """Fields of ``Settings`` that bound the scores of labels, that of the classes first."""
    view_keys: ClassVar[tuple[str, ...]] = ("LABELED_VIEW", "STRONG_VIEW")
    """Keys that its mappers read: groups of them, or single ones by GROUP.KEY."""
    unread: ClassVar[tuple[str, ...]] = ()
    """Inherited fields of ``Settings`` that it has no use for."""
    copies_early: ClassVar[bool] = False
    """Whether the last step of a burn-in makes the copy that ends it, and not the first step after
    it; until then the teacher is left as it was at the start."""
    asks_teacher = False
    """Whether a loss wants the teacher's opinion of sampled regions, by its feature maps."""
    has_two_means = False
    """Whether the classification loss has a mean of its own for foreground regions."""
    variance_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that must be False where the box head has no variance branch."""

    def __init__(self, settings: Any) -> None:
        """
        Args:
            settings: of the class's own ``Settings``.
        """
        self.settings = settings

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """Refuse, or warn of, what the method cannot learn by; of what is its alone."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MeanTeacher:
        """The method as a checked config describes it."""
        return cls(cls.settings_of(cfg))

    @classmethod
    def settings_of(cls, cfg: CfgNode) -> Any:
        """The settings of a checked config, with the decay that a run of its length may have."""
        settings = read_settings(cfg, cls.Settings)
        bound = horizon_decay(settings.ema_horizon, cfg.SOLVER.MAX_ITER)
        return replace(settings, ema_decay=min(settings.ema_decay, bound))

    @classmethod
    def threshold_keys(cls) -> tuple[str, ...]:
        """The config keys of what bounds the scores of labels; methods may have keys of their own.

        Whoever lowers all of them gets more labels. The first is that of tau, which decides what
        trains the classes.
        """
        return tuple(key_of(cls.Settings, name) for name in cls.score_bounds)

    @classmethod
    def labels_by_rank(cls, cfg: CfgNode) -> bool:
        """Whether labels are chosen by the rank of their score within the class, and not by tau."""
        return False

    def label_advice(self, more: bool) -> str:
        """What to do for more labels, or for fewer, such as "lower SSOD.SCORE_THRESHOLD"."""
        return f"{'lower' if more else 'raise'} {self.threshold_keys()[0]}"

    # 1. Images and views

    @classmethod
    def stored_labels(cls, cfg: CfgNode) -> StoredLabels | None:
        """The pseudo-labels that the run must make before it starts; None: none."""
        return None

    def prepare(self, pools: Pools) -> Pools:
        """The images that are drawn, with what the mappers have to know of them."""
        return pools

    def check_pass(self, unlabeled: int) -> None:
        """Refuse, or warn of, so many unlabeled images in a pass of a process; any will do here."""

    def mappers(self, cfg: CfgNode) -> tuple[LabeledMapper, UnlabeledViews]:
        """What makes training samples out of labeled and of unlabeled images."""
        return LabeledMapper.from_config(cfg), UnlabeledMapper.from_config(cfg)

    # 2. Labels

    def label(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> Labels:
        """Pseudo-labels of N unlabeled images: detections with a score of at least tau.

        Must not read which labels are left on the strong views: the host would wait for a GPU. Nor
        may it change the method: panels and probes ask, too. What a step that learns from these
        labels shall count goes along with them (``Labels.counts``, see :meth:`tally`).

        Args:
            teacher: in eval mode.
        """
        seen = observe(teacher, samples, self.lowest_score, self.refinement)
        return Labels.single(seen.carry(seen.detections), seen.score)

    @property
    def lowest_score(self) -> float:
        """tau: what scores as much is a label."""
        return float(self.settings.score_threshold)

    @property
    def refinement(self) -> Refinement:
        """How detections make use of the variance before they become labels: here not at all."""
        return PLAIN

    def student_batch(
        self, teacher: SemiSupervisedRCNN, batch: TrainingBatch, clock: Clock
    ) -> StudentBatch | PairBatch:
        """What the student's forward pass takes in: images, labels, and how to mix them."""
        if not batch.unlabeled:
            return StudentBatch(batch.labeled_views, method=self)
        labels = self.label(teacher, batch.unlabeled, clock)
        return self.with_labels(batch.labeled_views, batch.unlabeled, labels, clock)

    def with_labels(
        self,
        labeled: list[dict[str, Any]],
        samples: Sequence[UnlabeledSample],
        labels: Labels,
        clock: Clock,
    ) -> StudentBatch:
        """One student's batch of labeled views and of strong views with these labels."""
        strong = [{"image": sample.strong.image} for sample in samples]
        if not self.asks_teacher:
            # Else the teacher's feature maps would take memory throughout the student's pass.
            labels = replace(labels, ask=None)
        return StudentBatch(labeled, strong, labels, self, self.mixer(clock))

    # 3. Mixing

    def mixer(self, clock: Clock) -> Mixer | None:
        """How the images of this step are mixed, drawn from PyTorch's CPU generator; None: not."""
        return None

    # 4. Losses

    @property
    def rpn_terms(self) -> Collection[str]:
        """Which of the RPN's losses pseudo-labels train."""
        terms = {
            "loss_rpn_cls": self.settings.rpn_objectness,
            "loss_rpn_loc": self.settings.rpn_box,
        }
        return [name for name, trained in terms.items() if trained]

    def losses(self, labeled: Regions, cls: Regions | None, box: Regions | None) -> StudentLosses:
        """The box head's losses of one forward pass.

        Args:
            labeled: of the labeled images.
            cls, box: of the strong views, by the label sets of the two losses; one object where the
                sets are one, None during the burn-in.
        """
        losses = labeled_losses(labeled)
        if cls is not None and box is not None:
            losses.merge(StudentLosses(figures={"foreground_regions": Mean.of(cls.is_foreground)}))
            losses.merge(self.unlabeled_losses(cls, box))
        return losses

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """Terms of L_u (DRE's eq. 2) and the figures that explain them: here Faster R-CNN's own."""
        return StudentLosses(
            unsupervised={
                "loss_cls_unsup": cls.mean(cls.cross_entropy()),
                "loss_box_reg_unsup": self.box_mean(box, box.smooth_l1().sum(dim=1)),
            }
        )

    def box_mean(self, box: Regions, losses: Tensor, trained: Tensor | None = None) -> Tensor:
        """The box loss of pseudo-labels out of that of each region, (R,): every method's last step.

        With ``SSOD.PCV.ENABLED`` regions are weighed by :func:`consistency_weights` on top of what
        the method has weighed them by.

        Args:
            trained: (R,) whether the method has a box loss for a region; None: for all of them.
        """
        if not self.settings.pcv:
            return box.box_mean(losses)
        return box.box_mean(consistency_weights(box, trained) * losses)

    def region_weights(self, cls: Regions) -> Tensor | None:
        """(R,) weight of each region in the classification loss; None where all are 1.

        Panels show it, so the loss of a method that weighs regions asks for it here.
        """
        return None

    def box_weights(self, box: Regions) -> Tensor | None:
        """(R,) weight of each foreground region in the box loss; None where all are 1."""
        return None

    def weight(self, term: str, clock: Clock) -> float:
        """What a loss is multiplied by in this step (DRE's eq. 3), by its name."""
        if not term.endswith(UNSUPERVISED):
            return self.full_weight(term)
        learned = clock.iteration - clock.burn_in + 1
        return self.full_weight(term) * linear_ramp(learned, self.settings.unsup_warmup_iters)

    def full_weight(self, term: str) -> float:
        """The weight of a loss after the warm-up."""
        return float(self.settings.unsup_loss_weight) if term.endswith(UNSUPERVISED) else 1.0

    # 5. Following

    def decay(self, clock: Clock) -> float | None:
        """How much of the teacher stays after this step; None: all of it, untouched."""
        return ema_decay(self.ema_step(clock), self.settings.ema_decay)

    def ema_step(self, clock: Clock) -> int:
        """Which EMA step this is, from 0; the count starts again after a burn-in that copies.

        Its first step then copies the student.
        """
        burn_in = clock.burn_in if self.settings.burn_in_copy else 0
        after = clock.iteration - burn_in
        return after if after >= 0 else clock.iteration

    # What a method learns of the data, on all processes alike

    def study(self, pools: Pools) -> None:
        """Look at the labels of a run, once, before its first step or its resume."""

    def tally(self, passes: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Sums of this step on this process, by name, of the same shapes on all processes.

        They join the one all-reduce of the step.

        Args:
            passes: ``Labels.counts`` of each forward pass of the step; empty during the burn-in.
        """
        names = passes[0] if passes else ()
        return {name: torch.stack([counts[name] for counts in passes]).sum(0) for name in names}

    def learn(self, totals: Mapping[str, Tensor]) -> None:
        """Take in what :meth:`tally` gave, summed over all processes, on the host.

        Not called for a step that is skipped because it is not finite.
        """

    @property
    def is_warm(self) -> bool:
        """Whether a step does all that it will ever do; False while it has too little to look back
        on. A benchmark waits for it."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """What steps have changed: tensors, numbers, texts and plain containers.

        Asked for on all processes at once; that of the first one is written.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
