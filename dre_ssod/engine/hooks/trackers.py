"""Figures of a run for the programs where people look at all their runs: W&B and MLflow.

Where they write to, and as whom, they read themselves from their own environment (``WANDB_*``,
``MLFLOW_*``) and from what their own log-in has left; nothing of it passes through here. What they
are told of the run are figures, and the settings that differ from their defaults, without those
that name files or addresses.
"""

from __future__ import annotations

import logging
import secrets
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from dre_ssod.config.keys import get_cfg
from dre_ssod.errors import ConfigError
from dre_ssod.runs.detector import entry_for_weights

WINDOW = 20
"""Iterations over which figures are smoothed, as by Detectron2."""
PROJECT = "dre_ssod"
"""Project or experiment of a run where the environment names none."""

logger = logging.getLogger(__name__)


class Tracker(EventWriter):
    """Hands new figures on, and continues the tracked run where a training is resumed.

    It is started with the training, and stops it if it cannot start. A failure later on is logged
    once, and the training continues without it: ``metrics.json`` and TensorBoard have every figure.
    """

    kind: str
    """As SSOD.TRACKERS names it."""

    def __init__(self, name: str, settings: Mapping[str, Any], folder: Path) -> None:
        """
        Args:
            name: of the run.
            settings: of the run, as :func:`told_settings` gives them.
            folder: OUTPUT_DIR.
        """
        self._name, self._settings, self._folder = name, settings, folder
        self._run = ""
        self._last_write = -1
        # Until it has started.
        self._failed = True

    @abstractmethod
    def start(self, run: str) -> str:
        """Open the tracked run of this id, or a new one for ""; returns its id."""

    @abstractmethod
    def log(self, figures: Mapping[str, float], iteration: int) -> None:
        """Hand on the figures of an iteration."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until all is written."""

    def open(self, state: Mapping[str, Any]) -> None:
        """Start; or continue with the tracked run of :meth:`state_dict` of a checkpoint.

        Raises:
            ConfigError: if it cannot start.
        """
        self._last_write = state.get("last_write", -1)
        try:
            self._run = self.start(state.get("run", ""))
        # Whatever a library or a server comes up with.
        except Exception as error:
            raise ConfigError(
                f"SSOD.TRACKERS names {self.kind!r}, which cannot start ({_reason(error)}). "
                f"Install it (pip install {self.kind}), log in or choose its offline mode, or "
                'leave it out: SSOD.TRACKERS "()"'
            ) from error
        self._failed = False

    def write(self) -> None:
        """Hand on what is new since the last time, smoothed as in ``metrics.json``."""
        new: dict[int, dict[str, float]] = {}
        for name, (value, at) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if at > self._last_write:
                new.setdefault(at, {})[name] = float(value)
        for iteration in sorted(new):
            self._try(partial(self.log, new[iteration], iteration))
            self._last_write = iteration

    def close(self) -> None:
        self._try(self.finish)

    def _try(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            logger.warning(
                "%s gets no further figures, since it failed (%s). The training continues; "
                "metrics.json and TensorBoard have all of them.",
                self.kind,
                _reason(error),
            )

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: which tracked run it is, and how far it is."""
        return {"run": self._run, "last_write": self._last_write}


class WandbTracker(Tracker):
    """Weights & Biases; ``WANDB_MODE=offline`` needs no network and no account."""

    kind = "wandb"

    def start(self, run: str) -> str:
        import wandb  # An extra: nothing else here needs it.

        # What it would gather by itself: output, code, command line, machine.
        quiet = wandb.Settings(
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        # A resumed run must have its id again, offline too, so it is chosen here.
        self._tracked = wandb.init(
            id=run or secrets.token_hex(4),
            resume="allow",
            project=quiet.project or PROJECT,
            name=self._name,
            dir=str(self._folder),
            config=dict(self._settings),
            settings=quiet,
        )
        return str(self._tracked.id)

    def log(self, figures: Mapping[str, float], iteration: int) -> None:
        self._tracked.log(dict(figures), step=iteration)

    def finish(self) -> None:
        self._tracked.finish()


class MlflowTracker(Tracker):
    """MLflow, at ``MLFLOW_TRACKING_URI``."""

    kind = "mlflow"

    def start(self, run: str) -> str:
        from mlflow import MlflowClient  # An extra: nothing else here needs it.
        from mlflow.entities import Param

        # The client alone: mlflow.start_run would note the user, the command and the commit.
        self._client = MlflowClient()
        if run:
            self._client.update_run(run, status="RUNNING")
            return run
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = (
            self._client.create_experiment(PROJECT) if known is None else known.experiment_id
        )
        made = str(self._client.create_run(experiment, run_name=self._name).info.run_id)
        told = [Param(key, str(value)[:500]) for key, value in self._settings.items()]
        for first in range(0, len(told), 100):
            self._client.log_batch(made, params=told[first : first + 100])
        return made

    def log(self, figures: Mapping[str, float], iteration: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, iteration) for name, value in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self) -> None:
        self._client.set_terminated(self._run)


TRACKERS: dict[str, type[Tracker]] = {kind.kind: kind for kind in (WandbTracker, MlflowTracker)}


def build_trackers(cfg: CfgNode) -> list[Tracker]:
    """Those of SSOD.TRACKERS, not yet started; the run is named after its folder."""
    folder = Path(cfg.OUTPUT_DIR)
    told = told_settings(cfg)
    return [TRACKERS[kind](folder.resolve().name, told, folder) for kind in cfg.SSOD.TRACKERS]


def told_settings(cfg: CfgNode) -> dict[str, Any]:
    """Settings that are not at their default, without those that name files or addresses."""
    own, default = (entry_for_weights(each, ())["settings"] for each in (cfg, get_cfg()))
    return {key: value for key, value in own.items() if value != default[key]}


def _reason(error: Exception) -> str:
    """The kind of an error alone: its text may hold an address with a password in it."""
    return type(error).__name__
