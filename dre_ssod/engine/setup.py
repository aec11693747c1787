"""From command-line arguments to a checked, frozen config and a running logger."""

from __future__ import annotations

import argparse
import functools
import logging
import os
from contextlib import ExitStack
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from dre_ssod.checkpoints.checkpointer import refuse_to_overwrite
from dre_ssod.config.checks import check_config
from dre_ssod.config.effects import check_effects, say_unread
from dre_ssod.config.reading import read_config
from dre_ssod.config.schedule import say_schedule
from dre_ssod.data.sources.catalog import class_names, ensure_registered
from dre_ssod.engine.precision import use_tf32
from dre_ssod.errors import UserError
from dre_ssod.files import set_aside, write_text
from dre_ssod.launch.log_file import FILE_ONLY, keep_off_the_console
from dre_ssod.launch.processes import is_torchrun
from dre_ssod.launch.streams import keep_in_utf8
from dre_ssod.locks import holding
from dre_ssod.runs.record import TRAINING_LOCK, one_at_a_time
from dre_ssod.settings import refuse
from dre_ssod.workers import compute_with

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace, until: ExitStack) -> CfgNode:
    """Read, check and complete the config and start logging.

    Args:
        args: of ``train_net.py``, or of a program with its flags.
        until: a training has OUTPUT_DIR for itself until it is closed.

    Raises:
        FolderInUseError: if another training writes to OUTPUT_DIR.
        ConfigError: naming the argument or key that cannot be used.
        FileExistsError: if OUTPUT_DIR holds the checkpoints of another run.
    """
    cfg = read_config(args.config_file, args.opts)
    check_config(cfg, comm.get_world_size())
    check_effects(cfg, args.opts[::2], trains=not args.eval_only)
    _make_folder(cfg)
    if not args.resume:
        _check_weights(cfg)
    note = None if args.eval_only else _hold_folder(cfg, until)
    if not (args.resume or args.eval_only):
        refuse_to_overwrite(cfg.OUTPUT_DIR)
    keep_in_utf8(setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="dre_ssod"))
    if note:
        logger.warning("%s", note)
    complete(cfg)
    compute_with(_own_threads())
    if cfg.SEED < 0:
        cfg.SEED = _draw_seed(Path(cfg.OUTPUT_DIR), args.resume)
    cfg.freeze()
    _log_start(cfg, args)
    if not args.eval_only:
        say_unread(cfg)
        say_schedule(cfg)
    # What of the config a resumed run takes up, its checkpoint says.
    if not args.resume:
        save_config(cfg, "config_eval.yaml" if args.eval_only else "config.yaml")
    seed_all_rng(cfg.SEED + comm.get_rank())
    # An evaluation has few images of each size: searching for the fastest operators would not pay.
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
    return cfg


def _own_threads() -> int:
    """Of this process: ``OMP_NUM_THREADS``, or its share of the cores that ``--num-gpus`` has.

    Torchrun sets that variable, and a process of Slurm has cores of its own.
    """
    threads = torch.get_num_threads()
    if os.environ.get("OMP_NUM_THREADS") or is_torchrun():
        return threads
    return max(1, threads // comm.get_local_size())


def _make_folder(cfg: CfgNode) -> None:
    """Make OUTPUT_DIR, or see that one may write to it."""
    if not cfg.OUTPUT_DIR:
        refuse(cfg, "OUTPUT_DIR", "a folder for the files of the run")
    try:
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(cfg, "OUTPUT_DIR", f"a folder that can be made: {error}")
    if not os.access(cfg.OUTPUT_DIR, os.W_OK | os.X_OK):
        refuse(cfg, "OUTPUT_DIR", "a folder that you may write to")


def _hold_folder(cfg: CfgNode, until: ExitStack) -> str | None:
    """Have OUTPUT_DIR for this run alone, or refuse on every process; returns what to warn of."""
    note, trouble = None, None
    if comm.is_main_process():
        try:
            note = until.enter_context(holding(Path(cfg.OUTPUT_DIR) / TRAINING_LOCK))
        except UserError as error:
            trouble = error
    trouble = comm.all_gather(trouble)[0]
    if trouble is not None:
        raise trouble
    return note


def _check_weights(cfg: CfgNode) -> None:
    weights = cfg.MODEL.WEIGHTS
    if weights and not ("://" in weights or Path(weights.partition("?")[0]).is_file()):
        refuse(cfg, "MODEL.WEIGHTS", "a file that exists, an address that can be loaded, or ''")


def complete(cfg: CfgNode) -> None:
    """Fill in what depends on the machine and the data: device, dataset names, class count."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        _say_no_gpu(cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE.startswith("cuda:"):
        # What names no GPU, such as the thread that pins memory, would hold another one too.
        torch.cuda.set_device(cfg.MODEL.DEVICE)
    use_tf32(cfg)
    # Unlabeled sources are left alone: registering one would read its annotations.
    for key in ("TRAIN", "TEST"):
        cfg.DATASETS[key] = tuple(ensure_registered(name) for name in cfg.DATASETS[key])
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES == 0:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(class_names(cfg.DATASETS.TRAIN))


@functools.cache
def _say_no_gpu(device: str) -> None:
    """Once for a device: a table completes a config for each of its runs."""
    logger.warning("MODEL.DEVICE is %r but there is no GPU: using the CPU.", device)


def save_config(cfg: CfgNode, name: str) -> None:
    """Save the config in OUTPUT_DIR; another one of that name is kept with a number in its name.

    Done by the main process alone.

    An evaluation has a file of its own, so that ``config.yaml`` stays the config of the training.
    """
    if not comm.is_main_process():
        return
    path, text = Path(cfg.OUTPUT_DIR) / name, cfg.dump()
    with one_at_a_time(path.parent):
        if path.exists():
            if path.read_text(encoding="utf-8", errors="replace") == text:
                return
            other = set_aside(path)
            logger.info("The config has changed; the former one is %s", other)
        write_text(path, text)


def _draw_seed(folder: Path, resume: bool) -> int:
    """The seed of a run that names none: of the run that is resumed, else a random one."""
    saved = folder / "config.yaml"
    seed = None
    if resume and saved.is_file():
        try:
            seed = yaml.safe_load(saved.read_text(encoding="utf-8")).get("SEED")
        except (ValueError, AttributeError, RecursionError, yaml.YAMLError):
            logger.warning("%s cannot be read: it names no seed", saved)
    return seed if isinstance(seed, int) and seed >= 0 else int(comm.shared_random_seed())


def _log_start(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Start Detectron2's loggers and log what its ``default_setup`` does."""
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    keep_off_the_console("dre_ssod")
    logger.info("Process %d of %d", rank, comm.get_world_size())
    logger.info("Environment:\n%s", collect_env_info(), extra=FILE_ONLY)
    logger.info("Command line: %s", args, extra=FILE_ONLY)
    logger.info("Full config:\n%s", cfg.dump(), extra=FILE_ONLY)
    logger.info("Config, environment and layers of the model: %s/log.txt", cfg.OUTPUT_DIR)
