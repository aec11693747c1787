"""Training hooks of this project: evaluation, the best model and checkpoints.

At the end of an iteration they run in this order: ``SaveBeforeEvaluation``, ``Evaluation``,
``BestModel``, the writers, ``Checkpoints``. A run that dies in an evaluation so goes on with that
evaluation, and one that dies later does not repeat it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.engine import EvalHook, HookBase
from detectron2.utils import comm

from dre_ssod.engine.checkpoint import SafeCheckpointer
from dre_ssod.engine.checkpoint_files import clear_old, link_or_copy
from dre_ssod.engine.signals import SignalRequests

logger = logging.getLogger(__name__)


class Evaluation(EvalHook):
    """Evaluates every so many iterations and after the last one.

    Unlike Detectron2's, it does so as a part of the iteration, whose checkpoint then knows the
    results, and a signal to stop cuts it short.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], dict[str, Any]], signals: SignalRequests
    ) -> None:
        """
        Args:
            period: iterations; 0 evaluates after the last one only.
            evaluate: gives nested results.
        """
        super().__init__(period, evaluate)
        self._signals = signals

    @property
    def is_due(self) -> bool:
        """Whether this iteration is evaluated."""
        done = self.trainer.iter + 1
        return done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0)

    def after_step(self) -> None:
        if self.is_due:
            with self._signals.acted_upon_at_once():
                self._do_eval()

    def after_train(self) -> None:
        # As Detectron2's does, so that trainer and hook do not keep each other alive.
        del self._func


class BestModel(HookBase):
    """Remembers the iteration of the best evaluation, over a resume too."""

    def __init__(self, evaluation: Evaluation, metric: str) -> None:
        """
        Args:
            evaluation: runs before this hook.
            metric: name in the event storage; higher is better.
        """
        self._evaluation = evaluation
        self._metric = metric
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def after_step(self) -> None:
        if not self._evaluation.is_due or not comm.is_main_process():
            return
        latest = self.trainer.storage.latest().get(self._metric)
        if latest is None or latest[1] != self.trainer.iter:
            logger.warning("%s was not evaluated: no best checkpoint is kept.", self._metric)
            return
        value = float(latest[0])
        # AP is NaN where nothing was detected.
        if math.isnan(value) or (self.best_metric is not None and value <= self.best_metric):
            return
        self.best_metric, self.best_iter = value, self.trainer.iter
        logger.info("The best so far: %s is %.3f", self._metric, value)

    def state_dict(self) -> dict[str, Any]:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_metric = state_dict["best_metric"]
        self.best_iter = state_dict["best_iter"]


class Checkpoints(HookBase):
    """Saves every so many iterations, after evaluations, after the last iteration, on signals.

    Every checkpoint is numbered; that of the best evaluation and that of the last iteration get the
    further names ``model_best`` and ``model_final``.
    """

    def __init__(
        self,
        checkpointer: SafeCheckpointer,
        evaluation: Evaluation,
        best: BestModel | None,
        signals: SignalRequests,
        *,
        period: int,
        kept: int,
    ) -> None:
        """
        Args:
            period: iterations from one checkpoint to the next.
            kept: number of numbered checkpoints that stay.
        """
        self._checkpointer = checkpointer
        self._evaluation = evaluation
        self._best = best
        self._signals = signals
        self._period = period
        self._kept = kept
        self.evaluation_pending = False

    def before_train(self) -> None:
        # The run may have been killed between a checkpoint and its further names.
        if self.trainer.start_iter > 0 and not self.evaluation_pending:
            self._name_and_clear(self.trainer.start_iter - 1)

    def save_before_evaluation(self) -> None:
        """Save a checkpoint from which a resumed run evaluates first."""
        self.evaluation_pending = True
        self._save()

    def after_step(self) -> None:
        self.evaluation_pending = False
        done = self.trainer.iter + 1
        stop, save = self._signals.stop, self._signals.save
        if done % self._period == 0 or self._evaluation.is_due or save or stop:
            self._save()
            self._name_and_clear(self.trainer.iter)
        if stop:
            # No process leaves while another one still writes.
            comm.synchronize()
            self._signals.exit_if_told()

    def _save(self) -> None:
        if comm.is_main_process():
            iteration = self.trainer.iter
            self._checkpointer.save(_name(iteration), iteration=iteration)

    def _name_and_clear(self, iteration: int) -> None:
        """Give the checkpoint of an iteration the further names it has earned, remove old ones."""
        path = Path(self._checkpointer.save_dir) / f"{_name(iteration)}.pth"
        if not comm.is_main_process() or not path.is_file():
            return
        if self._best is not None and self._best.best_iter == iteration:
            link_or_copy(path, "model_best.pth")
        if iteration == self.trainer.max_iter - 1:
            link_or_copy(path, "model_final.pth")
        clear_old(path.parent, self._kept, path)

    def state_dict(self) -> dict[str, Any]:
        return {"evaluation_pending": self.evaluation_pending}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.evaluation_pending = state_dict["evaluation_pending"]


class SaveBeforeEvaluation(HookBase):
    """Keeps what was trained safe from whatever an evaluation may run into."""

    def __init__(self, evaluation: Evaluation, checkpoints: Checkpoints) -> None:
        self._evaluation = evaluation
        self._checkpoints = checkpoints

    def after_step(self) -> None:
        if self._evaluation.is_due:
            self._checkpoints.save_before_evaluation()


def _name(iteration: int) -> str:
    return f"model_{iteration:07d}"
