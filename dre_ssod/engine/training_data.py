"""From a config to the images of a training run and their loader."""

from __future__ import annotations

import logging

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.utils.data import DataLoader

from dre_ssod.data.loader import BatchPlan, build_paired_loader
from dre_ssod.data.splits.pools import Pools, build_pools
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.errors import ConfigError, printable
from dre_ssod.methods import MeanTeacher, method_class
from dre_ssod.structures import TrainingBatch
from dre_ssod.workers import fitting, image_bytes

logger = logging.getLogger(__name__)


def load_pools(cfg: CfgNode) -> Pools:
    """The labeled and unlabeled images of a config.

    Raises:
        ConfigError: if there is nothing to train on, or the classes contradict the config.
        SourceError: if a set cannot be read.
    """
    uses_unlabeled = method_class(cfg).uses_unlabeled
    unlabeled = cfg.DATASETS.UNLABELED if uses_unlabeled else ()
    pools = build_pools(
        cfg.DATASETS.TRAIN,
        unlabeled,
        cfg.DATASETS.LABELED_PERCENT,
        cfg.DATASETS.LABELED_FOLD,
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        cfg.DATASETS.SPLIT_FILE,
        cfg.DATASETS.TEST,
        cfg.DATASETS.UNLABELED_OVERLAP,
        cfg.DATALOADER.MAX_UNREADABLE_SHARE,
    )
    if not uses_unlabeled:
        pools = pools.without_unlabeled()
    elif not pools.unlabeled:
        raise ConfigError(
            f"no unlabeled images: DATASETS.UNLABELED is {tuple(cfg.DATASETS.UNLABELED)} and "
            f"DATASETS.LABELED_PERCENT is {cfg.DATASETS.LABELED_PERCENT}. Name a source, such as "
            "DATASETS.UNLABELED \"('folder://DIR',)\", lower DATASETS.LABELED_PERCENT to leave "
            "part of DATASETS.TRAIN unlabeled, or set SSOD.ENABLED False."
        )
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES != len(pools.classes):
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but DATASETS.TRAIN "
            f"has {len(pools.classes)} classes: {', '.join(pools.classes)}. Set it to "
            f"{len(pools.classes)}, or to 0 to take it from the data."
        )
    _warn_of_few(cfg, pools)
    logger.info(
        "%d labeled and %d unlabeled images; classes: %s",
        len(pools.labeled),
        len(pools.unlabeled),
        printable(", ".join(pools.classes)),
    )
    return pools


def _warn_of_few(cfg: CfgNode, pools: Pools) -> None:
    """A draw from a set that is a draw already leaves hardly anything, and trains all the same."""
    share, rest = cfg.SSOD.LABELED_TO_UNLABELED
    batch = cfg.SOLVER.IMS_PER_BATCH
    of_batch = batch * share // (share + rest) if pools.unlabeled else batch
    if cfg.DATASETS.LABELED_PERCENT < 100 and len(pools.labeled) < of_batch:
        logger.warning(
            "DATASETS.LABELED_PERCENT %g leaves %d labeled image(s), fewer than the %d of a batch. "
            "If DATASETS.TRAIN holds the labeled images alone, as labeled.json of "
            "tools/make_split.py does, set DATASETS.LABELED_PERCENT 100.",
            cfg.DATASETS.LABELED_PERCENT,
            len(pools.labeled),
            of_batch,
        )


def images_per_pass(cfg: CfgNode, world_size: int) -> tuple[int, int]:
    """Labeled and unlabeled images that one process draws for one forward pass."""
    labeled, unlabeled = cfg.SSOD.LABELED_TO_UNLABELED
    share = cfg.SOLVER.IMS_PER_BATCH // (world_size * cfg.SOLVER.ACCUMULATION_STEPS)
    if not method_class(cfg).uses_unlabeled:
        return share, 0
    part = share // (labeled + unlabeled)
    return part * labeled, part * unlabeled


def mean_image_bytes(recipe: ViewRecipe) -> float:
    """Bytes of a view of an image of 4 to 3, on average over the sizes that a recipe draws."""
    long_sides = recipe.long_sides
    sides = np.asarray(long_sides or recipe.short_sides, dtype=np.float64)
    if long_sides is not None or recipe.sampling == "range":
        sides = np.linspace(sides[0], sides[-1], 100)
    limits = [recipe.max_size] * len(sides) if long_sides is None else sides.tolist()
    return float(np.mean(list(map(image_bytes, sides.tolist(), limits))))


def build_training_loader(
    cfg: CfgNode, pools: Pools, method: MeanTeacher, seed: int, start_iter: int
) -> DataLoader[TrainingBatch]:
    """The endless loader of this process.

    Args:
        method: chooses among the images and makes the views.
        seed: of the run.
        start_iter: the first iteration that it serves.
    """
    micro_batches = cfg.SOLVER.ACCUMULATION_STEPS
    labeled, unlabeled = images_per_pass(cfg, comm.get_world_size())
    method.check_pass(unlabeled)
    pools = method.prepare(pools)
    of_labeled, weak, strong = (
        mean_image_bytes(recipe(cfg))
        for recipe in (ViewRecipe.labeled, ViewRecipe.weak, ViewRecipe.strong)
    )
    batch_bytes = labeled * of_labeled + unlabeled * (weak + strong)
    return build_paired_loader(
        pools.labeled,
        pools.unlabeled,
        *method.mappers(cfg),
        BatchPlan(
            labeled=labeled,
            unlabeled=unlabeled,
            burn_in_batches=cfg.SSOD.BURN_IN_ITERS * micro_batches,
            rank=comm.get_rank(),
            world_size=comm.get_world_size(),
        ),
        seed=seed,
        start=start_iter * micro_batches,
        num_workers=fitting(cfg.DATALOADER.NUM_WORKERS, batch_bytes, comm.get_local_size()),
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
    )
