"""Whether training goes as it should: losses fall, a resumed run goes on, models are evaluated."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from torch import Tensor

from dre_ssod.benchmark.inference import detect
from dre_ssod.benchmark.report import Goal, Row
from dre_ssod.data.mappers import EvaluationMapper
from dre_ssod.data.sources.catalog import load_unlabeled
from dre_ssod.deployment.export import partners
from dre_ssod.deployment.trained_model import load_trained
from dre_ssod.engine.setup import save_config
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.evaluation.evaluators import evaluate_models
from dre_ssod.gpu_check.findings import Fact, Finding, Setting
from dre_ssod.gpu_check.numerics import number_formats, without_tf32
from dre_ssod.gpu_check.scratch import sample_cfg

TRAINED = "trained"
"""Folder of the run whose model later steps use."""
LOWEST_SCORE = 0.05
"""Of detections that are compared; models find some down to a fifth of it."""


def training(setting: Setting) -> Iterator[Finding]:
    """Runs of ``configs/quickstart.yaml`` in each number format, with a short burn-in."""
    for name, overrides in number_formats(setting).items():
        iterations = 8 if setting.small else (40 if name == "float32" else 20)
        folder = setting.folder / (TRAINED if name == "float32" else f"training_{name}")
        yield from _train(name, _short_run(setting, folder, iterations, overrides))


def _short_run(
    setting: Setting, folder: Path, iterations: int, overrides: dict[str, Any]
) -> CfgNode:
    shutil.rmtree(folder, ignore_errors=True)
    return sample_cfg(
        setting,
        {
            "OUTPUT_DIR": folder,
            "SOLVER.MAX_ITER": iterations,
            "SOLVER.STEPS": (iterations - 1,),
            "SOLVER.WARMUP_ITERS": iterations // 4,
            "SOLVER.CHECKPOINT_PERIOD": iterations // 2,
            "SSOD.BURN_IN_ITERS": iterations // 4,
            # So short a run is sure of little.
            "SSOD.SCORE_THRESHOLD": 0.1,
            "TEST.EVAL_PERIOD": 0,
            "DATALOADER.NUM_WORKERS": 0 if setting.small else 4,
            **overrides,
        },
    )


def _train(name: str, cfg: CfgNode) -> Iterator[Finding]:
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    save_config(cfg, "config.yaml")
    histories = {n: [v for v, _ in h.values()] for n, h in trainer.storage.histories().items()}
    losses = histories["loss_cls"]
    quarter = len(losses) // 4
    first, last = (sum(part) / quarter for part in (losses[:quarter], losses[-quarter:]))
    broken = sum(not math.isfinite(v) for h in histories.values() for v in h)
    yield Goal(f"{name}: figures that are not finite", broken, 0)
    yield Goal(f"{name}: loss_cls of the last quarter over the first", last / first, 1.0)
    boxes = histories["ssod/pseudo_boxes_per_image"]
    yield Row(f"{name}: pseudo-boxes an image, in the end", boxes[-1], "")
    # After so few steps a teacher is not sure of something at each.
    without = boxes.count(0.0) / len(boxes)
    yield Goal(f"{name}: share of steps after the burn-in without pseudo-boxes", without, 0.9)
    times = sorted(histories["time"])
    yield Row(f"{name}: median time of a step", times[len(times) // 2] * 1e3, "ms")
    step: Any = trainer._trainer
    if step.grad_scaler.is_enabled():
        yield Goal(f"{name}: 1 over the scale of gradients", 1 / step.grad_scaler.get_scale(), 1.0)


class _Stop(HookBase):
    """Tells the process to stop after an iteration, as a cluster would."""

    def __init__(self, iteration: int) -> None:
        self._iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self._iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def resuming(setting: Setting) -> Iterator[Finding]:
    """Two runs without a break and one with: is it further off than they are from each other?"""
    torch.backends.cudnn.deterministic = True
    iterations = 6 if setting.small else 8
    name = "float16" if setting.on_gpu else "float32"
    overrides = number_formats(setting)[name]

    def start(part: str) -> CfgNode:
        folder = setting.folder / f"resuming_{part}"
        return _short_run(setting, folder, iterations, overrides)

    first = _run_through(start("a"))
    second = _run_through(start("b"))
    apart = _largest_difference(first, second)
    yield Row(f"{name}: two runs without a break, largest difference of a weight", apart, "")
    cfg = start("c")
    seed_all_rng(cfg.SEED)
    broken_off = SSODTrainer(cfg)
    broken_off.register_hooks([_Stop(iterations // 2 - 1)])
    broken_off.resume_or_load(resume=False)
    try:
        broken_off.train()
    except SystemExit as stop:
        yield Fact("exit code of the run that was told to stop", stop.code)
    # Where the device is deterministic, so is a resumed run.
    difference = _largest_difference(first, _run_through(cfg, resume=True))
    yield Goal(f"{name}: the resumed run, largest difference", difference, 3 * apart)


def _run_through(cfg: CfgNode, resume: bool = False) -> dict[str, Tensor]:
    """Weights of both models, and the state of the gradient scaler, at the end of a run."""
    seed_all_rng(cfg.SEED)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    step: Any = trainer._trainer
    models = {"student": trainer.student, "teacher": trainer.teacher}
    state = {f"{m}.{n}": t for m, model in models.items() for n, t in model.state_dict().items()}
    state["scale"] = torch.tensor(step.grad_scaler.get_scale())
    return {name: tensor.double().cpu() for name, tensor in state.items()}


def _largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def evaluating(setting: Setting) -> Iterator[Finding]:
    """The model of the training step on the CPU and on the device: its AP, and its detections."""
    images = 4 if setting.small else 40
    with without_tf32():
        cfg = _evaluation_cfg(setting, "cpu")
        model = load_trained(cfg)
        inputs = _inputs(cfg, images)
        expected = detect(model, inputs, 1)
        expected_ap = _average_precision(cfg, model)
        cfg = _evaluation_cfg(setting, setting.device)
        model = load_trained(cfg)
        ap = _average_precision(cfg, model)
        yield Row("AP of sample://val on the CPU", expected_ap, "")
        yield Row(f"AP of sample://val on {setting.device}", ap, "")
        yield Goal("difference of the two", abs(ap - expected_ap), 0.1)
        for batch in (1, 8):
            yield from _matched(f"batches of {batch}", detect(model, inputs, batch), expected)
    yield from _matched("TF32", detect(model, inputs, 8), expected, bounded=False)


def _evaluation_cfg(setting: Setting, device: str) -> CfgNode:
    overrides = {
        "MODEL.DEVICE": device,
        "MODEL.WEIGHTS": setting.folder / TRAINED / "model_final.pth",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": LOWEST_SCORE / 5,
        "DATASETS.TEST": ("sample://val",),
        "TEST.VARIANCE_VOTING.ENABLED": True,
        "TEST.IMS_PER_BATCH": 8,
        "OUTPUT_DIR": setting.folder / "evaluation",
    }
    return sample_cfg(setting, overrides)


def _average_precision(cfg: CfgNode, model: Any) -> float:
    results = evaluate_models(cfg, {"teacher": model}, cfg.MODEL.DEVICE)
    return float(results["teacher"]["bbox"]["AP"])


def _inputs(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    mapper = EvaluationMapper.from_config(cfg)
    return [mapper(record) for record in load_unlabeled(["sample://val"])[:count]]


def _matched(
    name: str, found: list[Any], expected: list[Any], bounded: bool = True
) -> Iterator[Finding]:
    """Each detection of the CPU beside the nearest one of its class.

    Scores that differ by a rounding change places in NMS now and then, and another box stays: the
    bounds are those of all detections but one in a hundred.
    """
    missing, distances, total = 0, [0.0], 0
    for one, other in zip(found, expected, strict=True):
        one = one.to("cpu")
        sure = other[other.scores >= LOWEST_SCORE]
        boxes, rivals = sure.pred_boxes.tensor, one.pred_boxes.tensor
        which = partners(boxes, sure.pred_classes, rivals, one.pred_classes)
        total += len(which)
        missing += int((which < 0).sum())
        off = (rivals[which[which >= 0]] - boxes[which >= 0]).abs().amax(dim=1)
        distances.extend(off.tolist())
    yield Row(f"{name}: detections compared", total, "")
    most = float(np.quantile(distances, 0.99))
    yield Row(f"{name}: largest distance of those found", max(distances), "pixels")
    if not bounded:
        yield Row(f"{name}: not found", missing, "")
        return
    yield Goal(f"{name}: share that is not found", missing / max(total, 1), 0.01)
    yield Goal(f"{name}: distance of 99 in 100", most, 0.1, "pixels")
