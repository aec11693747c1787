#!/usr/bin/env python
"""Train or evaluate a semi-supervised detector.

python train_net.py --config-file configs/quickstart.yaml
python train_net.py --config-file configs/coco_1pct.yaml --num-gpus 2
python train_net.py --config-file configs/coco_1pct.yaml --eval-only MODEL.WEIGHTS model.pth
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, launch

from dre_ssod.engine.checkpoint import load_student
from dre_ssod.engine.setup import setup
from dre_ssod.engine.trainer import SSODTrainer, evaluate_models


def evaluate(cfg: CfgNode) -> Any:
    """Evaluate SSOD.EVAL_MODEL of the checkpoint MODEL.WEIGHTS."""
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("--eval-only needs a checkpoint: name it with MODEL.WEIGHTS FILE")
    models = {}
    if cfg.SSOD.EVAL_MODEL in ("teacher", "both"):
        models["teacher"] = SSODTrainer.build_model(cfg)
        DetectionCheckpointer(models["teacher"]).load(cfg.MODEL.WEIGHTS)
    if cfg.SSOD.EVAL_MODEL in ("student", "both"):
        student = SSODTrainer.build_model(cfg)
        if load_student(cfg.MODEL.WEIGHTS, student):
            models["student"] = student
        elif cfg.SSOD.EVAL_MODEL == "student":
            raise ValueError(
                f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} holds no student: set SSOD.EVAL_MODEL teacher"
            )
        else:
            logging.getLogger("dre_ssod").warning(
                "%s holds no student: evaluating its model alone.", cfg.MODEL.WEIGHTS
            )
    return evaluate_models(cfg, models)


def main(args: argparse.Namespace) -> Any:
    """Run one process."""
    cfg = setup(args)
    if args.eval_only:
        if args.resume:
            raise ValueError("--eval-only evaluates MODEL.WEIGHTS; leave --resume out")
        return evaluate(cfg)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
