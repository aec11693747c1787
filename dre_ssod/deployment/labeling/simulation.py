"""A labeler who is simulated: the unlabeled images of a run whose labels are known all the same."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dre_ssod.data.conversion.coco_content import coco_uri, content_of
from dre_ssod.data.records import identify_files
from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.errors import ConfigError, SourceError, counted
from dre_ssod.files import write_text
from dre_ssod.runs.detector import categories_of

Record = dict[str, Any]


@dataclass(frozen=True)
class KnownPool:
    """What a run was trained on with labels, and without.

    Attributes:
        labeled: records of the labeled images.
        categories: their classes, ``id`` in COCO files and ``name``, in the order of their indices.
        pool: records of unlabeled images, with labels that the run has not seen.
        pool_categories: the same of those labels.
        drawn: whether the pool is what was left of DATASETS.TRAIN.
    """

    labeled: list[Record]
    categories: list[dict[str, Any]]
    pool: list[Record]
    pool_categories: list[dict[str, Any]]
    drawn: bool

    def draw(self, images: int, seed: str) -> list[Record]:
        """Images of the pool by chance, the same for the same seed.

        Raises:
            ConfigError: if it has no more than these.
        """
        if len(self.pool) <= images:
            known = counted(len(self.pool), "unlabeled image")
            raise ConfigError(
                f"the labels of {known} are known: too few to choose --images {images} of them"
            )
        return random.Random(seed).sample(self.pool, images)

    def find(self, files: Sequence[str]) -> list[Record]:
        """The records of these image files of the pool."""
        identify = identify_files()
        records = {identify(record["file_name"]): record for record in self.pool}
        return [records[identify(file)] for file in files]


def known_pool(cfg: CfgNode, truth: str | None) -> KnownPool:
    """The pool of a run.

    Args:
        cfg: of the run.
        truth: a set with the labels of its unlabeled images, where it has not drawn them from
            DATASETS.TRAIN.

    Raises:
        ConfigError: if ``truth`` is missing, or not needed.
        SourceError: if a set cannot be read, or knows nothing of these images.
    """
    sets = cfg.DATASETS
    pools = build_pools(
        *(sets.TRAIN, sets.UNLABELED, sets.LABELED_PERCENT, sets.LABELED_FOLD),
        *(cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, sets.SPLIT_FILE, sets.TEST),
        unreadable=cfg.DATALOADER.MAX_UNREADABLE_SHARE,
    )
    drawn = pools.split is not None
    if drawn and truth is not None:
        raise ConfigError(
            f"--truth is {truth}, but the run drew its labels from DATASETS.TRAIN, which knows the "
            "rest: leave it out"
        )
    if not drawn and truth is None:
        raise ConfigError(
            "the run has labels of all of DATASETS.TRAIN: name by --truth a labeled set that holds "
            "its unlabeled images"
        )
    names = sets.TRAIN if truth is None else [truth]
    identify = identify_files()
    unlabeled = {identify(record["file_name"]) for record in pools.unlabeled}
    known = [record for name in names for record in load_one_labeled(name)]
    pool = [record for record in known if identify(record["file_name"]) in unlabeled]
    if not pool:
        raise SourceError(f"{', '.join(names)}: has no unlabeled image of the run")
    of_run, of_pool = categories_of(sets.TRAIN), categories_of(names)
    return KnownPool(pools.labeled, of_run, pool, of_pool, drawn)


def write_set(path: Path, records: Sequence[Record], categories: Sequence[dict[str, Any]]) -> str:
    """Write records as a COCO file with images numbered from 1; returns its URI."""
    written = content_of(records, categories)
    write_text(path, json.dumps(written.content) + "\n")
    return coco_uri(path, written.image_root)
