"""One training step, in the order of the method (figure 2)."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.layers import cat
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dre_ssod.engine.ema import ModelEMA
from dre_ssod.engine.metrics import PREFIX, ClassCounts, StepMetrics, StepTotals
from dre_ssod.engine.nonfinite import NonfiniteGuard
from dre_ssod.engine.precision import autocast_dtype
from dre_ssod.engine.running_statistics import RunningStatistics
from dre_ssod.engine.unreadable import UnreadableImages
from dre_ssod.errors import CheckpointError
from dre_ssod.launch.signals import SignalRequests
from dre_ssod.memory.allocator import hand_back, large_blocks_apart
from dre_ssod.memory.machine import is_short
from dre_ssod.methods import Clock, MeanTeacher
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.structures import Mean, StudentLosses, TrainingBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepSettings:
    """What a step needs to know beside its method.

    Attributes:
        burn_in_iters: iterations before the first pseudo-label.
        max_iter: iterations of the run.
        accumulation_steps: forward passes per optimizer step.
        autocast_dtype: float16 or bfloat16 under AMP, else None.
        skip_nonfinite: whether a step whose loss or gradient is not finite is skipped; else it
            stops the run.
        max_unreadable_share: of the images drawn; above it the run stops.
        seed: makes every random choice of a step a function of (seed, iteration, rank).
    """

    burn_in_iters: int
    max_iter: int
    accumulation_steps: int
    autocast_dtype: torch.dtype | None
    skip_nonfinite: bool
    max_unreadable_share: float
    seed: int

    @classmethod
    def from_config(cls, cfg: CfgNode, seed: int, device: torch.device) -> StepSettings:
        """What a config says; ``seed`` and ``device`` are the run's."""
        return cls(
            burn_in_iters=cfg.SSOD.BURN_IN_ITERS,
            max_iter=cfg.SOLVER.MAX_ITER,
            accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
            skip_nonfinite=cfg.SOLVER.ON_NONFINITE == "skip",
            autocast_dtype=autocast_dtype(cfg, device),
            max_unreadable_share=cfg.DATALOADER.MAX_UNREADABLE_SHARE,
            seed=seed,
        )


class SemiSupervisedStep(SimpleTrainer):
    """Detectron2's step for a student that learns from labels and from its teacher."""

    def __init__(
        self,
        model: nn.Module,
        teacher: SemiSupervisedRCNN,
        method: MeanTeacher,
        data_loader: Iterable[TrainingBatch],
        optimizer: Optimizer,
        settings: StepSettings,
    ) -> None:
        """
        Args:
            model: the student, wrapped in DDP where there are several processes.
            teacher: same architecture; set to eval mode and never trained.
            method: decides what the teacher labels, what the student learns from it, and how the
                teacher follows.
            data_loader: endless.
            optimizer: of the student's parameters.
        """
        super().__init__(model, data_loader, optimizer)
        self.teacher = teacher.eval().requires_grad_(False)
        self.method = method
        self.settings = settings
        self.images = UnreadableImages(settings.max_unreadable_share)
        student = model.module if isinstance(model, DistributedDataParallel) else model
        self.ema = ModelEMA(teacher, student)
        # The last micro-batch of the newest step, for hooks that show it.
        self.last_batch: TrainingBatch | None = None
        self.device = next(student.parameters()).device
        self.pseudo_boxes = ClassCounts.none(teacher.roi_heads.num_classes, self.device)
        self.grad_scaler = torch.amp.GradScaler(
            self.device.type, enabled=settings.autocast_dtype == torch.float16
        )
        self.statistics = RunningStatistics(student)
        self.guard = NonfiniteGuard(
            student, self.statistics, self.grad_scaler, settings.skip_nonfinite
        )
        self.signals = SignalRequests()
        self._memory: AbstractContextManager[None] = large_blocks_apart()

    def run_step(self) -> None:
        """One step; the first gets its memory in another way."""
        memory, self._memory = self._memory, contextlib.nullcontext()
        with memory:
            self.draw_and_learn()
        if is_short() and hand_back():
            logger.warning(
                "Memory is running out: from here on what is freed goes back to the system, and "
                "steps are slower. More SOLVER.ACCUMULATION_STEPS (the same batch in more passes), "
                "smaller images (INPUT) or a smaller SOLVER.IMS_PER_BATCH need less."
            )

    def draw_and_learn(self) -> None:
        """Draw, compute, descend, average."""
        assert self.model.training, "the student was changed to eval mode"
        start = time.perf_counter()
        batches = [next(self._data_loader_iter) for _ in range(self.settings.accumulation_steps)]
        metrics = StepMetrics(time.perf_counter() - start, self.device)
        self.images.check_complete(batches)
        self.last_batch = batches[-1]
        self._seed_step()
        decay = self.method.decay(self.clock)
        self.guard.before_forward()
        try:
            self._forward_and_backward(batches, metrics)
        except FloatingPointError as error:
            # Detectron2 checks proposals in the forward pass.
            self.guard.refuse_forward(error, self._where(batches))
            self._follow(decay, moved=False)
            self.signals.agree(self.signals.pending())
            self._write_count("skipped_steps", self.guard.skipped)
            return
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        totals = metrics.exchange(
            self.guard.gradient_norm(), self.signals.pending(), self.method.tally(metrics.counts)
        )
        self.signals.agree(totals.signals)
        self._count_images(batches, totals)
        accepted = self.guard.accepts(totals, self._where(batches))
        if accepted:
            self.statistics.average()
            # A GPU has nothing to do until the optimizer's step is queued; writing can wait.
            self.grad_scaler.step(self.optimizer)
        # An overflow of float16 keeps the scaler from that step: the student is as it was.
        self._follow(decay, moved=accepted and math.isfinite(totals.gradient_norm))
        if accepted:
            totals.write(self.iter, self.weight, {"ema_decay": 1.0 if decay is None else decay})
            self.method.learn(totals.tallies)
        self.grad_scaler.update()
        if self.settings.skip_nonfinite:
            self._write_count("skipped_steps", self.guard.skipped)

    def _follow(self, decay: float | None, moved: bool) -> None:
        """Take the teacher on; a copy (decay 0) needs no step of the student."""
        if decay is not None and (moved or decay == 0.0):
            self.ema.update(decay)

    def _forward_and_backward(self, batches: list[TrainingBatch], metrics: StepMetrics) -> None:
        """Gradients of the mean over the micro-batches, and what there is to say about them."""
        self.optimizer.zero_grad()
        for batch, synchronize in self._micro_batches(batches):
            with synchronize:
                with self._autocast():
                    losses = self.compute_losses(batch)
                total = losses.total(self.weight) / len(batches)
                self.grad_scaler.scale(total).backward()
            metrics.add(losses)
            metrics.add_images(_count_drawn(batch), len(batch.failures))

    def _count_images(self, batches: list[TrainingBatch], totals: StepTotals) -> None:
        failures = [failure for batch in batches for failure in batch.failures]
        self.images.update(failures, totals.drawn, totals.unreadable)
        self._write_count("skipped_images", self.images.skipped)

    def _write_count(self, name: str, count: int) -> None:
        get_event_storage().put_scalar(
            PREFIX + name, count, smoothing_hint=False, cur_iter=self.iter
        )

    def _where(self, batches: list[TrainingBatch]) -> str:
        return f"iteration {self.iter}, images of this process {_file_names(batches)}"

    def compute_losses(self, batch: TrainingBatch) -> StudentLosses:
        """What the student learns from a batch (figure 2); the losses before beta."""
        truth = [view["instances"] for view in batch.labeled_views]
        figures = {"labeled_boxes_per_image": _boxes(truth, self.device)}
        counts: dict[str, Tensor] = {}
        given = self.method.student_batch(self.teacher, batch, self.clock)
        losses: StudentLosses = self.model(given)
        if given.labels is not None:
            pseudo_labels = given.labels.cls.instances()
            figures |= _pseudo_label_figures(pseudo_labels, self.device)
            self.pseudo_boxes.add(pseudo_labels)
            counts.update(given.labels.counts)
        losses.merge(StudentLosses(figures=figures, counts=counts))
        return losses

    @property
    def clock(self) -> Clock:
        """Where in its schedule the run is."""
        return Clock(self.iter, self.settings.burn_in_iters, self.settings.max_iter)

    def weight(self, term: str) -> float:
        """What a loss is multiplied by in the total loss, by its name."""
        return self.method.weight(term, self.clock)

    def _seed_step(self) -> None:
        sequence = np.random.SeedSequence([self.settings.seed, self.iter, comm.get_rank()])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def _autocast(self) -> AbstractContextManager[None]:
        dtype = self.settings.autocast_dtype
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    def _micro_batches(
        self, batches: list[TrainingBatch]
    ) -> Iterator[tuple[TrainingBatch, AbstractContextManager[None]]]:
        """Each batch with a context in which DDP exchanges gradients at the last one only."""
        for number, batch in enumerate(batches, start=1):
            if isinstance(self.model, DistributedDataParallel) and number < len(batches):
                yield batch, self.model.no_sync()
            else:
                yield batch, contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Iteration, optimizer, gradient scaler and the seed, which is all the random state."""
        state: dict[str, Any] = super().state_dict()
        state["grad_scaler"] = self.grad_scaler.state_dict()
        state["guard"] = self.guard.state_dict()
        state["images"] = self.images.state_dict()
        state["seed"] = self.settings.seed
        state["method"] = {"name": type(self.method).__name__, "state": self.method.state_dict()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; the seed is taken up by the owner of the loader."""
        super().load_state_dict(state_dict)
        # Empty where the run so far needed no scaling.
        if state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        # Checkpoints of version 0.1.0 have none of these, early ones of 0.2.0 no method.
        if "guard" in state_dict:
            self.guard.load_state_dict(state_dict["guard"])
        if "images" in state_dict:
            self.images.load_state_dict(state_dict["images"])
        if "method" in state_dict:
            self._load_method(**state_dict["method"])

    def _load_method(self, name: str, state: dict[str, Any]) -> None:
        own = type(self.method).__name__
        if name == own:
            self.method.load_state_dict(state)
            return
        # Before the first pseudo-label, most methods have learned nothing that is their own.
        is_burning_in = self.iter < self.settings.burn_in_iters
        if not is_burning_in or state or self.method.state_dict():
            raise CheckpointError(
                f"the run was started with SSOD.METHOD {name!r} and cannot be resumed with "
                f"{own!r}: keep its method, or start another run from its weights with "
                "MODEL.WEIGHTS in another OUTPUT_DIR"
            )
        logger.warning("In use from here on: SSOD.METHOD %r; it was %r in the burn-in", own, name)


def _boxes(instances: list[Instances], device: torch.device) -> Mean:
    """Boxes per image."""
    # Filled on the device: copied there, they would be waited for.
    return Mean(
        torch.full((), float(sum(len(i) for i in instances)), device=device),
        torch.full((), float(len(instances)), device=device),
    )


def _pseudo_label_figures(pseudo_labels: list[Instances], device: torch.device) -> dict[str, Mean]:
    figures = {
        "pseudo_boxes_per_image": _boxes(pseudo_labels, device),
        "pseudo_score": Mean.of(cat([labels.gt_scores for labels in pseudo_labels])),
    }
    if pseudo_labels[0].has("gt_localization_quality"):
        figures["pseudo_localization_quality"] = Mean.of(
            cat([labels.gt_localization_quality for labels in pseudo_labels])
        )
    return figures


def _count_drawn(batch: TrainingBatch) -> int:
    """Images that were drawn for a batch, readable or not."""
    return len(batch.labeled) + len(batch.unlabeled) + len(batch.failures)


def _file_names(batches: list[TrainingBatch]) -> list[str]:
    labeled = [image["file_name"] for batch in batches for image in batch.labeled]
    return labeled + [sample.file_name for batch in batches for sample in batch.unlabeled]
