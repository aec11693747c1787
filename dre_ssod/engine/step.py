"""One training step, in the order of the method (figure 2)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.layers import cat
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dre_ssod.engine.ema import ModelEMA, ema_decay
from dre_ssod.engine.metrics import StepMetrics
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.structures import Mean, StudentBatch, StudentLosses, TrainingBatch
from dre_ssod.teacher import observe


@dataclass(frozen=True)
class StepSettings:
    """What a step needs to know, by the paper's symbols where it has one.

    Attributes:
        unsup_loss_weight: beta of eq. 3.
        score_threshold: tau.
        prc: whether the teacher scores the student's proposals.
        burn_in_iters: iterations before the first pseudo-label.
        burn_in_copy: whether the student is copied into the teacher after them.
        ema_decay: upper bound of the decay.
        accumulation_steps: forward passes per optimizer step.
        autocast_dtype: float16 or bfloat16 under AMP, else None.
        seed: makes every random choice of a step a function of (seed, iteration, rank).
    """

    unsup_loss_weight: float
    score_threshold: float
    prc: bool
    burn_in_iters: int
    burn_in_copy: bool
    ema_decay: float
    accumulation_steps: int
    autocast_dtype: torch.dtype | None
    seed: int


class SemiSupervisedTrainer(SimpleTrainer):
    """Detectron2's step for a student that learns from labels and from its teacher."""

    def __init__(
        self,
        model: nn.Module,
        teacher: SemiSupervisedRCNN,
        data_loader: Iterable[TrainingBatch],
        optimizer: Optimizer,
        settings: StepSettings,
    ) -> None:
        """
        Args:
            model: the student, wrapped in DDP where there are several processes.
            teacher: same architecture; set to eval mode and never trained.
            data_loader: endless.
            optimizer: of the student's parameters.
        """
        super().__init__(model, data_loader, optimizer)
        self.teacher = teacher.eval().requires_grad_(False)
        self.settings = settings
        student = model.module if isinstance(model, DistributedDataParallel) else model
        self.ema = ModelEMA(teacher, student)
        self.device = next(student.parameters()).device
        self.grad_scaler = torch.amp.GradScaler(
            self.device.type, enabled=settings.autocast_dtype == torch.float16
        )

    def run_step(self) -> None:
        """Draw, compute, descend, average."""
        assert self.model.training, "the student was changed to eval mode"
        start = time.perf_counter()
        batches = [next(self._data_loader_iter) for _ in range(self.settings.accumulation_steps)]
        metrics = StepMetrics(data_time=time.perf_counter() - start)
        self._seed_step()

        self.optimizer.zero_grad()
        for batch, synchronize in self._micro_batches(batches):
            with synchronize:
                losses = self._checked_losses(batch)
                total = losses.total(self.settings.unsup_loss_weight) / len(batches)
                self.grad_scaler.scale(total).backward()
            metrics.add(losses)
        self.after_backward()
        decay = self._decay()
        metrics.write(
            self.iter, self.settings.unsup_loss_weight, {"ema_decay": decay}, _file_names(batches)
        )

        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.ema.update(decay)

    def _checked_losses(self, batch: TrainingBatch) -> StudentLosses:
        """The losses under AMP; Detectron2's error for broken proposals says when and where."""
        try:
            with self._autocast():
                return self.compute_losses(batch)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"iteration {self.iter}: {error} Images of this process: {_file_names([batch])}"
            ) from error

    def compute_losses(self, batch: TrainingBatch) -> StudentLosses:
        """Steps 1 to 4 of the method; the losses before beta."""
        figures = {"labeled_boxes_per_image": _boxes([x["instances"] for x in batch.labeled])}
        if not batch.unlabeled:
            losses: StudentLosses = self.model(StudentBatch(labeled=batch.labeled))
        else:
            opinion = observe(self.teacher, batch.unlabeled, self.settings.score_threshold)
            pseudo_labels = opinion.pseudo_labels_on_strong_views()
            losses = self.model(
                StudentBatch(
                    labeled=batch.labeled,
                    strong=[{"image": sample.strong.image} for sample in batch.unlabeled],
                    pseudo_labels=pseudo_labels,
                    scorer=opinion.score_proposals if self.settings.prc else None,
                )
            )
            figures |= _pseudo_label_figures(pseudo_labels)
        losses.merge(StudentLosses(figures={k: _on(v, self.device) for k, v in figures.items()}))
        return losses

    def _decay(self) -> float:
        burn_in = self.settings.burn_in_iters if self.settings.burn_in_copy else 0
        # Where the count starts anew after the burn-in, its first step copies the student.
        step = self.iter if self.iter < burn_in else self.iter - burn_in
        return ema_decay(step, self.settings.ema_decay)

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
        state["seed"] = self.settings.seed
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; the seed is taken up by the owner of the loader."""
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _boxes(instances: list[Instances]) -> Mean:
    """Boxes an image."""
    return Mean(
        torch.tensor(float(sum(len(i) for i in instances))), torch.tensor(float(len(instances)))
    )


def _on(mean: Mean, device: torch.device) -> Mean:
    return Mean(mean.total.to(device), mean.count.to(device))


def _pseudo_label_figures(pseudo_labels: list[Instances]) -> dict[str, Mean]:
    figures = {
        "pseudo_boxes_per_image": _boxes(pseudo_labels),
        "pseudo_score": Mean.of(cat([labels.gt_scores for labels in pseudo_labels])),
    }
    if pseudo_labels[0].has("gt_localization_quality"):
        figures["pseudo_localization_quality"] = Mean.of(
            cat([labels.gt_localization_quality for labels in pseudo_labels])
        )
    return figures


def _file_names(batches: list[TrainingBatch]) -> list[str]:
    labeled = [image["file_name"] for batch in batches for image in batch.labeled]
    return labeled + [sample.file_name for batch in batches for sample in batch.unlabeled]
