"""Assembly of a training run: models, loader, optimizer, hooks (a ``DefaultTrainer``)."""

from __future__ import annotations

import copy
import inspect
import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluators
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dre_ssod.checkpoints.checkpointer import SafeCheckpointer, refuse_to_overwrite
from dre_ssod.checkpoints.folder import read_tensors
from dre_ssod.checkpoints.weights import say_frozen_at_random, start_all
from dre_ssod.config.checks import check_config
from dre_ssod.data.splits.files import record_split
from dre_ssod.engine.hooks.checkpoints import Checkpoints, SaveBeforeEvaluation
from dre_ssod.engine.hooks.evaluation import BestModel, Evaluation, LaggingTeacher, best_metric_name
from dre_ssod.engine.hooks.panels import PanelHook
from dre_ssod.engine.hooks.trackers import build_trackers
from dre_ssod.engine.hooks.watch import build_watches
from dre_ssod.engine.hooks.writers import FigurePrinter, MetricsFile, ResumingWriter
from dre_ssod.engine.out_of_memory import advice
from dre_ssod.engine.precision import announce, name_of
from dre_ssod.engine.step import SemiSupervisedStep, StepSettings
from dre_ssod.engine.training_data import build_training_loader, load_pools
from dre_ssod.errors import CheckpointError
from dre_ssod.evaluation.evaluators import (
    build_evaluator,
    build_test_loader,
    evaluate_models,
)
from dre_ssod.evaluation.pseudo_labels import PseudoLabelProbe
from dre_ssod.launch.log_file import FILE_ONLY
from dre_ssod.methods import build_method
from dre_ssod.runs.contents import check_resumed
from dre_ssod.runs.detector import categories_of, check_start
from dre_ssod.runs.results import record_results
from dre_ssod.runs.resuming import check_burn_in, check_length, say_changes, settings_of, settle
from dre_ssod.runs.sets import contents_of, describe_sets, format_table

# PyTorch 2.13 renamed it, and there buffers are sent around once, at the start.
_BUFFERS = "forward_sync_buffers"
if _BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    _BUFFERS = "broadcast_buffers"
OWN_BUFFERS: dict[str, Any] = {_BUFFERS: False}
"""Argument of DistributedDataParallel by which buffers are not sent around in each pass."""

logger = logging.getLogger(__name__)


class SSODTrainer(DefaultTrainer):
    """Trains a student and its teacher from a config.

    ``SSOD.ENABLED False`` trains on labels alone, on the same path.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own __init__ would build Detectron2's step and loader.
        super(DefaultTrainer, self).__init__()
        check_config(cfg, comm.get_world_size())
        self.cfg = cfg
        self.start_iter = 0
        self.has_ended = False
        """Whether nothing is left to train or to evaluate; known once the run is resumed."""
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.method = build_method(cfg)
        self.pools = load_pools(cfg)
        self.method.study(self.pools)
        self.datasets = describe_sets(cfg, self.pools)
        logger.info("Sets of this run:\n%s", format_table(self.datasets))
        self._contents = contents_of(self.datasets)
        self._categories = categories_of(cfg.DATASETS.TRAIN)
        self.probe = PseudoLabelProbe.from_config(
            cfg, self.method, self.pools.labeled, self.pools.classes
        )

        student = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, student)
        self._rates = [
            {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
        ]
        model = _wrap(student)
        # After wrapping: DDP has given every process the weights of the first.
        teacher = copy.deepcopy(student)
        self._trainer = SemiSupervisedStep(
            *(model, teacher, self.method, (), optimizer),
            settings=StepSettings.from_config(cfg, self._seed, student.device),
        )
        self.precision = name_of(self._trainer.settings.autocast_dtype)
        announce(cfg, student.device, self._trainer.settings.autocast_dtype)
        self.student = student
        self.teacher = self._trainer.teacher
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = SafeCheckpointer(
            teacher, cfg.OUTPUT_DIR, student=student, trainer=weakref.proxy(self)
        )
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Any:
        """Detectron2's model of a config; its layers are logged into the file alone."""
        model = build_model(cfg)
        logger.info("Model:\n%s", model, extra=FILE_ONLY)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """Detectron2's optimizer, plus CLIP_TYPE "full_model" (norm of all gradients together)."""
        clip = cfg.SOLVER.CLIP_GRADIENTS
        if not (clip.ENABLED and clip.CLIP_TYPE == "full_model"):
            return super().build_optimizer(cfg, model)
        unclipped = cfg.clone()
        unclipped.defrost()
        unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
        optimizer = super().build_optimizer(unclipped, model)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def clip_all(*_: Any) -> None:
            nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

        optimizer.register_step_pre_hook(clip_all)
        return optimizer

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume the last checkpoint of OUTPUT_DIR, or start from MODEL.WEIGHTS at iteration 0.

        Raises:
            FileExistsError: if not resuming and OUTPUT_DIR holds another run's checkpoints.
            CheckpointError: if OUTPUT_DIR holds checkpoints, but none that can be used.
            ConfigError: if MODEL.WEIGHTS has the classes in another order.
        """
        if not resume:
            refuse_to_overwrite(self.cfg.OUTPUT_DIR)
        last = self.checkpointer.find_last() if resume else None
        if last is not None:
            self._load(last)
            return
        if resume:
            logger.warning(
                "--resume: %s has no checkpoint yet; starting at iteration 0.", self.cfg.OUTPUT_DIR
            )
        say_frozen_at_random(self.cfg)
        start_all(self.teacher, self.teacher.detectors, self.cfg.MODEL.WEIGHTS)
        check_start(self.cfg)
        self.student.load_state_dict(self.teacher.state_dict())

    def _load(self, path: str) -> None:
        """Take up a run after the iteration that a checkpoint finished."""
        content = read_tensors(path, mmap=True)
        run, done = content["trainer"].get("run"), int(content["iteration"]) + 1
        if run is None:
            logger.info("%s does not say with which data and settings it was trained.", path)
        else:
            check_resumed(run["sets"], self._contents, self.cfg.DATASETS.ACCEPT_CHANGED)
            self.cfg = settle(run["settings"], self.cfg)
        check_length(self.cfg, done, path)
        if run is not None:
            check_burn_in(run["settings"], self.cfg, done, path)
        try:
            self.checkpointer.load(path)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} does not fit the config: {str(error)[:500]} A run continues with "
                "the config it was started with; another one needs another OUTPUT_DIR."
            ) from error
        self.start_iter = self.iter + 1
        end = self.cfg.SOLVER.MAX_ITER
        if done == end and run is not None and run["settings"]["SOLVER.MAX_ITER"] != end:
            # Saved on the way to another end, it need not have been evaluated.
            self._checkpoints.evaluation_pending = True
        self.has_ended = done == end and not self._checkpoints.evaluation_pending
        if run is not None:
            say_changes(run["settings"], self.cfg, path, self.has_ended)

    def train(self) -> Any:
        """Train from the current iteration to SOLVER.MAX_ITER."""
        self._trainer.data_loader = self.build_paired_loader()
        if comm.is_main_process():
            path = Path(self.cfg.OUTPUT_DIR) / "split.json"
            accepted = "labeled" in self.cfg.DATASETS.ACCEPT_CHANGED
            record_split(self.pools.split, path, resumed=self.start_iter > 0 and not accepted)
        with self._trainer.signals.caught():
            return super().train()

    def run_step(self) -> None:
        """One step.

        Raises:
            torch.OutOfMemoryError: saying which settings would need less.
        """
        try:
            super().run_step()
        except torch.OutOfMemoryError as error:
            said = advice(self.cfg, comm.get_world_size(), self.precision == name_of(None))
            raise torch.OutOfMemoryError(f"{str(error).splitlines()[0]} {said}") from error

    def before_train(self) -> None:
        """Before the loop; a run that was resumed before an evaluation begins with it."""
        super().before_train()
        if self._checkpoints.evaluation_pending:
            self.iter = self.storage.iter = self.start_iter - 1
            for hook in self._finishing:
                hook.after_step()
            self.iter = self.storage.iter = self.start_iter

    def build_paired_loader(self) -> Any:
        """The loader of this process, standing at the current iteration."""
        return build_training_loader(self.cfg, self.pools, self.method, self._seed, self.start_iter)

    def build_hooks(self) -> list[Any]:
        """Evaluation of both models, checkpoints and Detectron2's own hooks.

        They are the same on every process, since each restores their state. Their order is
        explained in :mod:`dre_ssod.engine.hooks`.
        """
        cfg = self.cfg
        signals = self._trainer.signals
        evaluation = Evaluation(cfg.TEST.EVAL_PERIOD, self.evaluate, signals)
        metric = best_metric_name(cfg)
        best = None
        if metric is not None:
            best = BestModel(evaluation, metric, self._contents["test"].sha256)
        self._checkpoints = Checkpoints(
            self.checkpointer,
            evaluation,
            best,
            signals,
            period=cfg.SOLVER.CHECKPOINT_PERIOD,
            kept=cfg.SOLVER.CHECKPOINTS_KEPT,
            burn_in=cfg.SSOD.BURN_IN_ITERS if cfg.SSOD.BURN_IN_KEPT else 0,
        )
        # What ends an iteration whose weights are saved.
        self._finishing: list[HookBase] = [
            evaluation,
            *([] if best is None else [best]),
            *([LaggingTeacher(metric)] if metric and cfg.SSOD.EVAL_MODEL == "both" else []),
            ResumingWriter(self.build_writers() if comm.is_main_process() else []),
            self._checkpoints,
        ]
        panels = PanelHook(cfg, self._trainer, self.student, self.pools.classes)
        found = [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            *build_watches(cfg, self.method, self.pools, self._trainer.pseudo_boxes),
            panels if self.method.uses_unlabeled and cfg.SSOD.PANEL_PERIOD else None,
            SaveBeforeEvaluation(evaluation, self._checkpoints),
            *self._finishing,
        ]
        return [hook for hook in found if hook is not None]

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's console line, metrics.json and TensorBoard, SSOD figures, SSOD.TRACKERS."""
        folder = Path(self.cfg.OUTPUT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        return [
            CommonMetricPrinter(self.max_iter),
            MetricsFile(folder / "metrics.json"),
            TensorboardXWriter(str(folder)),
            FigurePrinter(),
            *build_trackers(self.cfg),
        ]

    def evaluate(self) -> OrderedDict[str, Any]:
        """Results of SSOD.EVAL_MODEL, under "teacher" and "student", and of the diagnosis of
        TEST.PSEUDO_LABEL_SET under "pseudo_labels". The last results are also filed."""
        models = {"teacher": self.teacher, "student": self.student}
        chosen = {n: m for n, m in models.items() if self.cfg.SSOD.EVAL_MODEL in (n, "both")}
        results = evaluate_models(self.cfg, chosen, "inference")
        if self.iter >= self.max_iter - 1:
            final = Path(self.cfg.OUTPUT_DIR) / "model_final.pth"
            record_results(self.cfg, results, "training", str(final), self.max_iter - 1)
        if self.probe is not None:
            results["pseudo_labels"] = self.probe.measure(self.teacher, self._trainer.clock)
        return results

    @property
    def seed(self) -> int:
        """The seed of the run; once it is resumed, that of its first start."""
        return int(self._seed)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """For ``SSODTrainer.test``: files read as in training."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None
    ) -> DatasetEvaluators:
        """For ``SSODTrainer.test``: COCO-style AP, and TEST.VOC_PROTOCOLS."""
        folder = output_dir or str(Path(cfg.OUTPUT_DIR) / "inference")
        return build_evaluator(dataset_name, folder, cfg.TEST.VOC_PROTOCOLS)

    def state_dict(self) -> dict[str, Any]:
        sets = {role: content.state_dict() for role, content in self._contents.items()}
        run = {"settings": settings_of(self.cfg), "categories": self._categories, "sets": sets}
        own = {"seed": self._seed, "precision": self.precision, "run": run}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the run with its seed, so that the streams continue, and the config's rates."""
        states = state_dict.get("hooks", {})
        if "BestModelCheckpointer" in states:
            # What version 0.1.0 called it.
            states["BestModel"] = states.pop("BestModelCheckpointer")
        super().load_state_dict(state_dict)
        self._use_configured_rates()
        self._seed = state_dict["seed"]
        # Checkpoints of version 0.1.0 do not say.
        before = state_dict.get("precision", self.precision)
        if before != self.precision:
            logger.warning(
                "So far the run trained in %s; from here on it trains in %s.",
                before,
                self.precision,
            )
        self._trainer.settings = StepSettings.from_config(self.cfg, self._seed, self.student.device)

    def _use_configured_rates(self) -> None:
        """Learning rate, momentum and weight decay of the config in place of the checkpoint's."""
        groups = self._trainer.optimizer.param_groups
        for group, own in zip(groups, self._rates, strict=True):
            group.update(own, initial_lr=own["lr"])
        self.scheduler.base_lrs = [group["initial_lr"] for group in groups]
        for group, rate in zip(groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = rate


def _wrap(model: nn.Module) -> nn.Module | DistributedDataParallel:
    """DDP where there are several processes."""
    device_ids = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    wrapped: nn.Module = create_ddp_model(model, device_ids=device_ids, **OWN_BUFFERS)
    return wrapped
