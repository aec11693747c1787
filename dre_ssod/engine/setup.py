"""From command-line arguments to a checked, frozen config and a running logger."""

from __future__ import annotations

import argparse
import logging

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from dre_ssod.config import get_cfg
from dre_ssod.config_checks import check_config
from dre_ssod.data.sources import class_names, resolve_dataset
from dre_ssod.engine.checkpoint import refuse_to_overwrite


def setup(args: argparse.Namespace) -> CfgNode:
    """Read, complete and check the config, start logging and save the config with the run.

    Args:
        args: of Detectron2's ``default_argument_parser``.
    """
    cfg = get_cfg()
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    if not (args.resume or args.eval_only):
        refuse_to_overwrite(cfg.OUTPUT_DIR)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="dre_ssod")
    complete(cfg, logger)
    check_config(cfg, comm.get_world_size())
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def complete(cfg: CfgNode, logger: logging.Logger) -> None:
    """Fill in what depends on the machine and the data: device, dataset names, class count."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %r but there is no GPU: using the CPU.", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    # Unlabeled sources are left alone: registering one would read its annotations.
    for key in ("TRAIN", "TEST"):
        cfg.DATASETS[key] = tuple(resolve_dataset(name) for name in cfg.DATASETS[key])
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES == 0:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(class_names(cfg.DATASETS.TRAIN))
