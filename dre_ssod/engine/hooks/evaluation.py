"""When the models are evaluated, and which evaluation was the best so far."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import EvalHook, HookBase
from detectron2.utils import comm

from dre_ssod.evaluation.evaluators import HEADLINE
from dre_ssod.launch.signals import SignalRequests

logger = logging.getLogger(__name__)

TOLERATED_LAG = 1.0
"""AP by which a teacher may be below its student before it is said."""


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


class LaggingTeacher(HookBase):
    """Warns after the last evaluation where the model that is used is well below its student."""

    def __init__(self, metric: str) -> None:
        """
        Args:
            metric: of the teacher, in the event storage; that of the student has "student" in
                place of "teacher".
        """
        self._metric = metric

    def after_step(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter or not comm.is_main_process():
            return
        latest = self.trainer.storage.latest()
        names = (self._metric, self._metric.replace("teacher", "student", 1))
        found = [latest[name][0] for name in names if name in latest]
        # AP is NaN for a set without objects, and no number is below NaN.
        if len(found) == 2 and found[1] - found[0] > TOLERATED_LAG:
            logger.warning(
                "The teacher, the model that checkpoints are used by, has %.1f AP, %.1f less than "
                "its student: a moving average too slow for a run of %d iterations. Lower "
                "SSOD.EMA.DECAY, or let it follow the length of the run, SSOD.EMA.HORIZON 0.05. "
                "The student of this run is used by --model student of the tools.",
                found[0],
                found[1] - found[0],
                self.trainer.max_iter,
            )


def best_metric_name(cfg: CfgNode) -> str | None:
    """The metric whose best checkpoint is kept: AP of the teacher (of the student if alone)."""
    if not cfg.DATASETS.TEST:
        return None
    model = "student" if cfg.SSOD.EVAL_MODEL == "student" else "teacher"
    parts = [model, HEADLINE, "AP"]
    if len(cfg.DATASETS.TEST) > 1:
        parts.insert(1, cfg.DATASETS.TEST[0])
    return "/".join(parts)


class BestModel(HookBase):
    """Remembers the iteration of the best evaluation, over a resume too."""

    def __init__(self, evaluation: Evaluation, metric: str, test: str = "") -> None:
        """
        Args:
            evaluation: runs before this hook.
            metric: name in the event storage; higher is better.
            test: SHA-256 of what is tested on; values of other images are no measure.
        """
        self._evaluation = evaluation
        self._metric = metric
        self._measured_by = [metric, test]
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
        # AP is NaN for a set without objects.
        if math.isnan(value) or (self.best_metric is not None and value <= self.best_metric):
            return
        self.best_metric, self.best_iter = value, self.trainer.iter
        logger.info("The best so far: %s is %.3f", self._metric, value)

    def forget(self) -> None:
        """The model that was the best is gone."""
        logger.warning(
            "The best model of the evaluations so far, of iteration %s with %s %.3f, was cleared "
            "as a later one was better: what is evaluated next becomes model_best.pth.",
            self.best_iter,
            self._metric,
            self.best_metric,
        )
        self.best_metric = self.best_iter = None

    def state_dict(self) -> dict[str, Any]:
        best = {"best_metric": self.best_metric, "best_iter": self.best_iter}
        return {**best, "measured_by": self._measured_by}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Checkpoints of early 0.2.0 do not say it.
        before = state_dict.get("measured_by", self._measured_by)
        if before != self._measured_by:
            if state_dict["best_metric"] is not None:
                logger.warning(
                    "The best model so far was chosen by %s of %s; now that is %s of %s: what is "
                    "evaluated next becomes model_best.pth.",
                    before[0],
                    before[1][:12] or "the test set",
                    self._metric,
                    self._measured_by[1][:12] or "the test set",
                )
            return
        self.best_metric = state_dict["best_metric"]
        self.best_iter = state_dict["best_iter"]
