"""When checkpoints are written, which further names they get, and which ones go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from dre_ssod.checkpoints.checkpointer import SafeCheckpointer
from dre_ssod.checkpoints.folder import BEST, BURN_IN, add_name, clear_old, set_best_aside
from dre_ssod.engine.hooks.evaluation import BestModel, Evaluation
from dre_ssod.launch.signals import SignalRequests


class Checkpoints(HookBase):
    """Saves every so many iterations, after evaluations, after the last iteration, on signals.

    Every checkpoint is numbered; that of the best evaluation and that of the last iteration get the
    further names ``model_best`` and ``model_final``, and that of the end of the burn-in, where it
    is to be kept, ``model_burn_in``.
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
        burn_in: int = 0,
    ) -> None:
        """
        Args:
            period: iterations from one checkpoint to the next.
            kept: number of numbered checkpoints that stay.
            burn_in: iterations after which the checkpoint is kept as ``model_burn_in``; 0: none.
        """
        self._checkpointer = checkpointer
        self._evaluation = evaluation
        self._best = best
        self._signals = signals
        self._period = period
        self._kept = kept
        self._burn_in = burn_in
        self.evaluation_pending = False

    def before_train(self) -> None:
        done = self.trainer.start_iter
        if done > 0:
            self._replace_best(done - 1)
        # The run may have been killed between a checkpoint and its further names.
        if done > 0 and not self.evaluation_pending:
            self._name_and_clear(done - 1)

    def save_before_evaluation(self) -> None:
        """Save a checkpoint from which a resumed run evaluates first."""
        self.evaluation_pending = True
        self._save()

    def after_step(self) -> None:
        self.evaluation_pending = False
        done = self.trainer.iter + 1
        stop, save = self._signals.stop, self._signals.save
        is_planned = done % self._period == 0 or done == self._burn_in
        if is_planned or self._evaluation.is_due or save or stop:
            self._save()
            self._name_and_clear(self.trainer.iter)
        if stop:
            # No process leaves while another one still writes.
            comm.synchronize()
            self._signals.exit_if_stopped()

    def _save(self) -> None:
        iteration = self.trainer.iter
        self._checkpointer.save(_name(iteration), iteration=iteration)

    def _replace_best(self, iteration: int) -> None:
        """Where the run has gone back, its best model is that of the evaluations until there."""
        folder = Path(self._checkpointer.save_dir)
        if not comm.is_main_process() or not set_best_aside(folder, iteration):
            return
        if self._best is not None and self._best.best_iter is not None:
            path = folder / f"{_name(self._best.best_iter)}.pth"
            if path.is_file():
                add_name(path, BEST)
            else:
                self._best.forget()

    def _name_and_clear(self, iteration: int) -> None:
        """Give the checkpoint of an iteration the further names it has earned, remove old ones."""
        path = Path(self._checkpointer.save_dir) / f"{_name(iteration)}.pth"
        if not comm.is_main_process() or not path.is_file():
            return
        if self._best is not None and self._best.best_iter == iteration:
            add_name(path, BEST)
        if iteration == self.trainer.max_iter - 1:
            add_name(path, "model_final.pth")
        if iteration == self._burn_in - 1:
            add_name(path, BURN_IN)
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
            # An evaluation ends at once when it is asked to: no process before all is written.
            comm.synchronize()


def _name(iteration: int) -> str:
    return f"model_{iteration:07d}"
