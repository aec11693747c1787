"""Evaluation of teacher and student, under their own names."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluators,
    PascalVOCDetectionEvaluator,
)
from detectron2.utils import comm


def build_evaluator(dataset_name: str, output_dir: str) -> DatasetEvaluators:
    """COCO-style AP for any dataset, and Detectron2's VOC metrics beside it for VOC ones.

    Args:
        dataset_name: a registered dataset with annotations.
        output_dir: where the ground truth of datasets that are not COCO files is written.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if not metadata.get("json_file"):
        metadata.json_file = _ground_truth_path(dataset_name, output_dir)
        _write_ground_truth(dataset_name, metadata.json_file)
    evaluators = [
        COCOEvaluator(dataset_name, ("bbox",), output_dir=output_dir, use_fast_impl=False)
    ]
    if metadata.get("evaluator_type") == "pascal_voc":
        evaluators.append(_VOCEvaluator(dataset_name))
    return DatasetEvaluators(evaluators)


class _VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's VOC metrics under a name that COCO-style AP cannot be confused with."""

    def evaluate(self) -> dict[str, Any] | None:
        results = super().evaluate()
        return {"voc_bbox": results["bbox"]} if results else results


def _ground_truth_path(dataset_name: str, output_dir: str) -> str:
    """A file name that any dataset name, URIs included, can have; the same on every rank."""
    slug = re.sub(r"[^A-Za-z0-9]+", "_", dataset_name).strip("_")[:60]
    digest = hashlib.sha256(dataset_name.encode()).hexdigest()[:8]
    return str(Path(output_dir) / f"ground_truth_{slug}_{digest}.json")


def _write_ground_truth(dataset_name: str, path: str) -> None:
    """Write a dataset's annotations as COCO JSON, for pycocotools. Never taken from a cache."""
    if comm.is_main_process():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(convert_to_coco_dict(dataset_name)))
    comm.synchronize()
