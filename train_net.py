#!/usr/bin/env python
"""Train or evaluate a semi-supervised detector.

    python train_net.py --config-file configs/quickstart.yaml --resume
    python train_net.py --config-file configs/quickstart.yaml DATASETS.TRAIN "('coco://a.json',)" \\
        DATASETS.UNLABELED "('folder://photos',)" DATASETS.TEST "()" MODEL.ROI_HEADS.NUM_CLASSES 3
    python train_net.py --config-file configs/coco_1pct.yaml --num-gpus 2
    python train_net.py --config-file configs/coco_1pct.yaml --eval-only MODEL.WEIGHTS model.pth
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dre_ssod_cli.parsers import run_parser
from dre_ssod_cli.program import run_processes

if TYPE_CHECKING:
    from detectron2.config import CfgNode

logger = logging.getLogger("dre_ssod.train_net")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with Detectron2's flags."""
    return run_parser(__doc__).parse_args(arguments)


def evaluate(cfg: CfgNode, config_file: str) -> Any:
    """Evaluate SSOD.EVAL_MODEL of the checkpoint MODEL.WEIGHTS on DATASETS.TEST."""
    from dre_ssod.checkpoints.weights import load_student
    from dre_ssod.deployment.trained_model import check_weights, load_trained
    from dre_ssod.engine.trainer import SSODTrainer
    from dre_ssod.errors import ConfigError
    from dre_ssod.evaluation.evaluators import evaluate_models
    from dre_ssod.runs.record import record_start
    from dre_ssod.runs.results import record_results, saved_iteration
    from dre_ssod.runs.sets import prepare_evaluation

    weights = cfg.MODEL.WEIGHTS
    if not weights:
        raise ConfigError("--eval-only needs a checkpoint: name it with MODEL.WEIGHTS FILE")
    check_weights(cfg, cfg.DATASETS.TRAIN)
    record_start(cfg, "evaluation", prepare_evaluation(cfg), config_file=config_file, seed=cfg.SEED)
    models = {}
    if cfg.SSOD.EVAL_MODEL in ("teacher", "both"):
        models["teacher"] = load_trained(cfg)
    if cfg.SSOD.EVAL_MODEL in ("student", "both"):
        student = SSODTrainer.build_model(cfg)
        if load_student(weights, student):
            models["student"] = student
        elif cfg.SSOD.EVAL_MODEL == "student":
            raise ConfigError(f"{weights!r} holds no student: set SSOD.EVAL_MODEL teacher")
        else:
            logger.warning("%s holds no student: evaluating its model alone.", weights)
    results = evaluate_models(cfg, models, "inference_eval")
    record_results(cfg, results, "evaluation", weights, saved_iteration(weights))
    return results


def main(args: argparse.Namespace) -> Any:
    """Run one process."""
    from dre_ssod.engine.setup import save_config, setup
    from dre_ssod.engine.stages import start
    from dre_ssod.runs.record import is_own_restart, record_start

    # After its death torchrun and Slurm start the program again, with the same arguments.
    args.resume = args.resume or is_own_restart(args)
    with ExitStack() as until:
        cfg = setup(args, until)
        if args.eval_only:
            return evaluate(cfg, args.config_file)
        trainer = start(cfg, args.resume)
        cfg = trainer.cfg
        if args.resume and not trainer.has_ended:
            save_config(cfg, "config.yaml")
        record_start(
            *(cfg, "training", trainer.datasets),
            config_file=args.config_file,
            seed=trainer.seed,
            first_iteration=trainer.start_iter,
            precision=trainer.precision,
        )
        return trainer.train()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program with command-line arguments; returns its exit code."""
    return run_processes(main, parse_arguments(arguments))


if __name__ == "__main__":
    sys.exit(run())
