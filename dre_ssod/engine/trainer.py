"""Assembly of a training run: models, loader, optimizer, hooks (a ``DefaultTrainer``)."""

from __future__ import annotations

import copy
import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dre_ssod.config_checks import check_config, check_pools
from dre_ssod.data.loader import BatchPlan, build_paired_loader
from dre_ssod.data.mappers import LabeledMapper, UnlabeledMapper
from dre_ssod.data.splits import Pools, build_pools
from dre_ssod.engine.checkpoint import build_checkpointer, refuse_to_overwrite
from dre_ssod.engine.evaluation import build_evaluator
from dre_ssod.engine.hooks import BestModelCheckpointer
from dre_ssod.engine.metrics import FigurePrinter
from dre_ssod.engine.step import SemiSupervisedTrainer, StepSettings

logger = logging.getLogger("dre_ssod")


class SSODTrainer(DefaultTrainer):
    """Trains a student and its teacher from a config.

    ``SSOD.ENABLED False`` trains on labels alone, on the same path.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own __init__ would build Detectron2's step and loader.
        super(DefaultTrainer, self).__init__()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        check_config(cfg, comm.get_world_size())
        self.cfg = cfg
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.pools = load_pools(cfg)

        student = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, student)
        model = _wrap(student)
        # After wrapping: DDP has given every process the weights of the first.
        teacher = copy.deepcopy(student)
        self._trainer = SemiSupervisedTrainer(
            model, teacher, (), optimizer, step_settings(cfg, self._seed, student.device)
        )
        self.student = student
        self.teacher = self._trainer.teacher
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = build_checkpointer(
            teacher, student, weakref.proxy(self), cfg.OUTPUT_DIR
        )
        self.register_hooks(self.build_hooks())

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
        """
        if not resume:
            refuse_to_overwrite(self.cfg.OUTPUT_DIR)
        elif not self.checkpointer.has_checkpoint():
            logger.warning(
                "--resume: %s has no checkpoint yet; starting at iteration 0.", self.cfg.OUTPUT_DIR
            )
        super().resume_or_load(resume)
        if self.start_iter == 0:
            self.student.load_state_dict(self.teacher.state_dict())

    def train(self) -> Any:
        """Train from the current iteration to SOLVER.MAX_ITER."""
        self._trainer.data_loader = self.build_paired_loader()
        if self.pools.split is not None and comm.is_main_process():
            self.pools.split.save(Path(self.cfg.OUTPUT_DIR) / "split.json")
        return super().train()

    def build_paired_loader(self) -> Any:
        """The loader of this process, standing at the current iteration."""
        cfg = self.cfg
        micro_batches = cfg.SOLVER.ACCUMULATION_STEPS
        labeled, unlabeled = images_per_pass(cfg, comm.get_world_size())
        return build_paired_loader(
            self.pools.labeled,
            self.pools.unlabeled,
            LabeledMapper.from_config(cfg),
            UnlabeledMapper.from_config(cfg),
            BatchPlan(
                labeled=labeled,
                unlabeled=unlabeled,
                burn_in_batches=cfg.SSOD.BURN_IN_ITERS * micro_batches,
                rank=comm.get_rank(),
                world_size=comm.get_world_size(),
            ),
            seed=self._seed,
            start=self.start_iter * micro_batches,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    def build_hooks(self) -> list[Any]:
        """Detectron2's hooks, evaluation of both models and the checkpoint of the best teacher."""
        cfg = self.cfg
        found: list[Any] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if comm.is_main_process():
            found.append(
                hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
            )
        found.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self.evaluate))
        if comm.is_main_process():
            metric = best_metric_name(cfg)
            if metric is not None:
                found.append(BestModelCheckpointer(cfg.TEST.EVAL_PERIOD, self.checkpointer, metric))
            found.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return found

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's console line, metrics.json and TensorBoard, and the line of SSOD figures."""
        writers: list[EventWriter] = super().build_writers()
        return [*writers, FigurePrinter(logger)]

    def evaluate(self) -> OrderedDict[str, Any]:
        """Results of SSOD.EVAL_MODEL, under "teacher" and "student"."""
        return evaluate_models(
            self.cfg,
            {
                name: model
                for name, model in (("teacher", self.teacher), ("student", self.student))
                if self.cfg.SSOD.EVAL_MODEL in (name, "both")
            },
        )

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_dir: str | None = None
    ) -> DatasetEvaluators:
        """See :func:`dre_ssod.engine.evaluation.build_evaluator`."""
        folder = output_dir or str(Path(cfg.OUTPUT_DIR) / "inference")
        return build_evaluator(dataset_name, folder)

    def state_dict(self) -> dict[str, Any]:
        # The last finished iteration: once training is over, Detectron2 counts one further.
        iteration = min(self.iter, self.max_iter - 1)
        return {**super().state_dict(), "iteration": iteration, "seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the run; its seed wins over the config's, so that the streams go on."""
        super().load_state_dict(state_dict)
        self._seed = state_dict["seed"]
        self._trainer.settings = step_settings(self.cfg, self._seed, self.student.device)


def evaluate_models(cfg: CfgNode, models: dict[str, nn.Module]) -> OrderedDict[str, Any]:
    """Evaluate several models on DATASETS.TEST; results by model name, then as Detectron2's."""
    results: OrderedDict[str, Any] = OrderedDict()
    for name, model in models.items():
        logger.info("Evaluating the %s", name)
        results[name] = SSODTrainer.test(cfg, model)
    return results


def load_pools(cfg: CfgNode) -> Pools:
    """The labeled and unlabeled images of a config, checked."""
    unlabeled = cfg.DATASETS.UNLABELED if cfg.SSOD.ENABLED else ()
    pools = build_pools(
        cfg.DATASETS.TRAIN,
        unlabeled,
        cfg.DATASETS.LABELED_PERCENT,
        cfg.DATASETS.LABELED_FOLD,
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    )
    check_pools(cfg, pools)
    logger.info(
        "%d labeled and %d unlabeled images; classes: %s",
        len(pools.labeled),
        len(pools.unlabeled) if cfg.SSOD.ENABLED else 0,
        ", ".join(pools.classes),
    )
    return pools


def images_per_pass(cfg: CfgNode, world_size: int) -> tuple[int, int]:
    """Labeled and unlabeled images that one process draws for one forward pass."""
    labeled, unlabeled = cfg.SSOD.LABELED_TO_UNLABELED
    share = cfg.SOLVER.IMS_PER_BATCH // (world_size * cfg.SOLVER.ACCUMULATION_STEPS)
    if not cfg.SSOD.ENABLED:
        return share, 0
    part = share // (labeled + unlabeled)
    return part * labeled, part * unlabeled


def step_settings(cfg: CfgNode, seed: int, device: torch.device) -> StepSettings:
    """The settings of the training step that a config describes."""
    return StepSettings(
        unsup_loss_weight=cfg.SSOD.UNSUP_LOSS_WEIGHT,
        score_threshold=cfg.SSOD.SCORE_THRESHOLD,
        prc=cfg.SSOD.PRC.ENABLED,
        burn_in_iters=cfg.SSOD.BURN_IN_ITERS,
        burn_in_copy=cfg.SSOD.BURN_IN_COPY,
        ema_decay=cfg.SSOD.EMA.DECAY,
        accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
        autocast_dtype=autocast_dtype(cfg, device),
        seed=seed,
    )


def autocast_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """The dtype of SOLVER.AMP on a device, None where AMP is off."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    name = cfg.SOLVER.AMP.DTYPE
    if name == "auto":
        name = "float16" if device.type == "cuda" else "bfloat16"
    if name == "float16" and device.type == "cpu":
        raise ValueError(
            "SOLVER.AMP.DTYPE is 'float16' but MODEL.DEVICE is 'cpu', which has no gradient "
            "scaling: use 'bfloat16' or 'auto'."
        )
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def best_metric_name(cfg: CfgNode) -> str | None:
    """The metric whose best checkpoint is kept: AP of the teacher (of the student if alone)."""
    if not cfg.DATASETS.TEST:
        return None
    model = "student" if cfg.SSOD.EVAL_MODEL == "student" else "teacher"
    parts = [model, "bbox", "AP"]
    if len(cfg.DATASETS.TEST) > 1:
        parts.insert(1, cfg.DATASETS.TEST[0])
    return "/".join(parts)


def _wrap(model: nn.Module) -> nn.Module | DistributedDataParallel:
    """DDP where there are several processes."""
    device_ids = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
    wrapped: nn.Module = create_ddp_model(model, device_ids=device_ids, broadcast_buffers=False)
    return wrapped
