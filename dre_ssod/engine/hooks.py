"""Training hooks of this project."""

from __future__ import annotations

import logging
import math
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase

logger = logging.getLogger(__name__)


class BestModelCheckpointer(HookBase):
    """Keeps the checkpoint of the best evaluation, and remembers how good it was over a resume.

    Detectron2's ``BestCheckpointer`` saves the checkpoint before it notes the new best value, so a
    run that resumes from that checkpoint would let a worse model take its place.
    """

    def __init__(self, eval_period: int, checkpointer: DetectionCheckpointer, metric: str) -> None:
        """
        Args:
            eval_period: of the ``EvalHook``, which must run before this hook.
            metric: name in the event storage; higher is better.
        """
        self._period = eval_period
        self._checkpointer = checkpointer
        self._metric = metric
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def after_step(self) -> None:
        # When EvalHook evaluates: the last iteration is left to after_train.
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._check()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._check()

    def _check(self) -> None:
        latest = self.trainer.storage.latest().get(self._metric)
        if latest is None:
            logger.warning("%s was not evaluated: no best checkpoint is kept.", self._metric)
            return
        value, iteration = latest
        # AP is NaN where nothing was detected.
        if math.isnan(value) or (self.best_metric is not None and value <= self.best_metric):
            return
        self.best_metric, self.best_iter = float(value), iteration
        finished = min(self.trainer.iter, self.trainer.max_iter - 1)
        self._checkpointer.save("model_best", iteration=finished)
        logger.info("Saved model_best: %s is %.3f", self._metric, value)

    def state_dict(self) -> dict[str, Any]:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_metric = state_dict["best_metric"]
        self.best_iter = state_dict["best_iter"]
