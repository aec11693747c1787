"""Evaluation of a model on a set, by one or several protocols, each under its own name."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from torch import nn

from dre_ssod.data.mappers import EvaluationMapper
from dre_ssod.data.sources.truth import load_difficult, load_truth
from dre_ssod.data.sources.voc import is_voc
from dre_ssod.evaluation.coco import BoxEvaluator
from dre_ssod.evaluation.voc import VOCEvaluator
from dre_ssod.files import naming_failures
from dre_ssod.workers import fitting, image_bytes, tend

HEADLINE = "bbox"
PROTOCOLS = {
    HEADLINE: "COCO-style AP of TEST.DETECTIONS_PER_IMAGE detections (COCO's protocol has 100); "
    "difficult objects, where a set marks any, count like all others",
    "bbox_ignore_difficult": "COCO-style AP of as many detections; difficult objects are ignored, "
    "as COCO ignores crowds",
    "voc07_bbox": "PASCAL VOC 2007 AP (11 points), as Detectron2; difficult objects are ignored",
    "voc10_bbox": "PASCAL VOC 2010 AP (area), as Detectron2; difficult objects are ignored",
}
"""What the keys of the results mean. Figures of different keys cannot be compared."""
VOC_PROTOCOLS = tuple(key for key in PROTOCOLS if key != HEADLINE)
"""What TEST.VOC_PROTOCOLS may name."""

logger = logging.getLogger(__name__)


def build_evaluator(
    dataset_name: str, output_dir: str, protocols: Sequence[str] = ()
) -> DatasetEvaluators:
    """COCO-style AP for any dataset, and further protocols beside it for sets in VOC's layout.

    Args:
        dataset_name: a registered dataset with annotations.
        output_dir: where detections go.
        protocols: keys of :data:`PROTOCOLS` beside "bbox" (``TEST.VOC_PROTOCOLS``). For a set that
            is not in VOC's layout, and so marks no object as difficult, they are left out with a
            warning.

    Raises:
        SourceError: if the set cannot be read.
    """
    truth = load_truth(dataset_name)
    evaluators: list[Any] = [BoxEvaluator(HEADLINE, dataset_name, truth, output_dir)]
    if protocols and not is_voc(dataset_name):
        logger.warning(
            "%s is not in PASCAL VOC's layout and marks no object as difficult: TEST.VOC_PROTOCOLS "
            "%s are left out for it.",
            dataset_name,
            ", ".join(protocols),
        )
    elif protocols:
        records = load_difficult(dataset_name)
        classes = MetadataCatalog.get(dataset_name).thing_classes
        evaluators += [
            # The headline has written the detections, which are the same.
            BoxEvaluator(key, dataset_name, records, ignore_difficult=True)
            if key == "bbox_ignore_difficult"
            else VOCEvaluator(key, records, classes, key == "voc07_bbox")
            for key in protocols
        ]
    return _NamedEvaluators(dataset_name, Path(output_dir), evaluators)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Any:
    """Detectron2's loader, with files read as in training, in batches of TEST.IMS_PER_BATCH."""
    size = image_bytes(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    batch_bytes = cfg.TEST.IMS_PER_BATCH * size
    loader = build_detection_test_loader(
        cfg,
        dataset_name,
        mapper=EvaluationMapper.from_config(cfg),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        num_workers=fitting(cfg.DATALOADER.NUM_WORKERS, batch_bytes, comm.get_local_size()),
    )
    return tend(loader)


def evaluate_models(
    cfg: CfgNode, models: Mapping[str, nn.Module], folder: str
) -> OrderedDict[str, Any]:
    """Evaluate several models on DATASETS.TEST; results by model name, then as Detectron2's.

    Args:
        folder: of OUTPUT_DIR, for the detections of each model on each set.
    """
    results: OrderedDict[str, Any] = OrderedDict()
    for name, model in models.items():
        logger.info("Evaluating the %s", name)
        place = Path(cfg.OUTPUT_DIR) / folder / name
        evaluators = [
            build_evaluator(test_set, str(place / file_slug(test_set)), cfg.TEST.VOC_PROTOCOLS)
            for test_set in cfg.DATASETS.TEST
        ]
        results[name] = _Test.test(cfg, model, evaluators)
    return results


def file_slug(dataset_name: str) -> str:
    """A file name that any dataset name, URIs included, can have; the same on every rank."""
    slug = re.sub(r"[^A-Za-z0-9]+", "_", dataset_name).strip("_")[:60]
    digest = hashlib.sha256(dataset_name.encode()).hexdigest()[:8]
    return f"{slug}_{digest}"


class _Test(DefaultTrainer):
    """Detectron2's loop over the test sets, with this project's loader; never instantiated."""

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_test_loader(cfg, dataset_name)


class _NamedEvaluators(DatasetEvaluators):
    """Says with every result by which protocol it came about."""

    def __init__(self, dataset_name: str, folder: Path, evaluators: list[Any]) -> None:
        super().__init__(evaluators)
        self._folder = folder
        self._dataset_name = dataset_name

    def evaluate(self) -> dict[str, Any]:
        # Detectron2 writes its detections by itself.
        with naming_failures(self._folder):
            results: dict[str, Any] = super().evaluate()
        for key, figures in results.items():
            line = ", ".join(f"{n} {v:.2f}" for n, v in figures.items() if "-" not in n)
            logger.info("%s, %s (%s): %s", self._dataset_name, key, PROTOCOLS[key], line)
        return results
