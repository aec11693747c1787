"""COCO's average precision by faster-coco-eval: the figures of pycocotools in a tenth of the time.

tests/evaluation/test_coco compares the two, and ``tools/benchmark.py eval`` times them.

The truth is made from the records that training sees, with ids of our own: whatever a reader leaves
out (:mod:`dre_ssod.data.usable`) is left out here, and ids that annotation files give play no part.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from faster_coco_eval import COCO, COCOeval_faster
from tabulate import tabulate

from dre_ssod.data.records import is_crowd, xywh
from dre_ssod.files import write_text

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The first figures of COCO's summary, in its order."""
COCO_DETECTIONS = 100
"""Detections per image that COCO's protocol counts."""

logger = logging.getLogger(__name__)


class BoxEvaluator(DatasetEvaluator):
    """COCO-style AP of boxes, with the results of Detectron2's evaluator.

    All detections that a model gives count. Up to 100 per image, that is COCO's protocol; beyond,
    ``TEST.DETECTIONS_PER_IMAGE`` is the limit.
    """

    def __init__(
        self,
        key: str,
        dataset_name: str,
        records: Sequence[dict[str, Any]],
        output_dir: str | None = None,
        ignore_difficult: bool = False,
    ) -> None:
        """
        Args:
            key: the results' name.
            dataset_name: of a registered set with classes.
            records: of the set, as :func:`dre_ssod.data.sources.truth.load_truth` gives them.
            output_dir: where detections go; None to write none.
            ignore_difficult: whether difficult objects are ignored, as crowd regions are.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self._key = key
        self._class_names = list(metadata.thing_classes)
        contiguous = metadata.get("thing_dataset_id_to_contiguous_id", {})
        self._category_ids = {index: category for category, index in contiguous.items()}
        self._truth = coco_truth(records, self._class_names, ignore_difficult)
        self._output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        self._found: list[dict[str, Any]] = []

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Note the detections of a batch."""
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._found += instances_to_coco_json(instances, image["image_id"])

    def evaluate(self) -> dict[str, Any] | None:
        """Percentages under the key: ``METRICS`` and ``AP-<class>``; None beside rank 0.

        Empty for a set without objects, of which detections are only written. Where nothing was
        detected, all is 0, but NaN for classes and sizes without an object.
        """
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return None
        found = list(itertools.chain.from_iterable(gathered))
        if self._output_dir:
            path = Path(self._output_dir) / "coco_instances_results.json"
            logger.info("Saving detections to %s", path)
            write_text(path, json.dumps([self._filed(item) for item in found]))
        if not self._truth["annotations"]:
            logger.info("Annotations are not available for evaluation.")
            return {}
        if not found:
            logger.warning("Nothing was detected.")
        logger.info("Evaluating %d detections with faster-coco-eval", len(found))
        return {self._key: self._figures(evaluate_all(self._truth, found))}

    def _filed(self, item: dict[str, Any]) -> dict[str, Any]:
        """A detection with the category id of the annotation file, if there is one."""
        category = item["category_id"]
        return {**item, "category_id": self._category_ids.get(category, category)}

    def _figures(self, evaluation: COCOeval_faster) -> dict[str, float]:
        figures = dict(zip(METRICS, map(percent, evaluation.stats), strict=False))
        aps = precision_curves(evaluation).mean(axis=(0, 1))
        for name, ap in zip(self._class_names, aps, strict=True):
            figures[f"AP-{name}"] = percent(ap)
        rows = [(name, f"{value:.3f}") for name, value in figures.items()]
        logger.info("Results:\n%s", tabulate(rows, tablefmt="pipe", headers=("figure", "percent")))
        return figures


def percent(value: float) -> float:
    """A share as a percentage; COCO's -1 means that there was nothing to measure."""
    return float(100 * value) if value >= 0 else float("nan")


def precision_curves(evaluation: COCOeval_faster) -> npt.NDArray[np.float64]:
    """(IoUs, 101, K) precision at the recalls 0, 0.01 ... 1, in [0, 1], over objects of all sizes;
    NaN for classes without an object."""
    # (IoUs, recalls, classes, areas, limits): all areas, the largest limit.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return np.where(precision > -1, precision, np.nan)


def coco_truth(
    records: Sequence[dict[str, Any]], class_names: Sequence[str], ignore_difficult: bool = False
) -> dict[str, Any]:
    """Records as the content of a COCO file, with the indices of classes as category ids.

    Objects are numbered from 1: pycocotools takes one of id 0 for one that no detection finds. The
    area is that of the mask where a record says it, else of the box.

    Args:
        ignore_difficult: whether difficult objects are crowd regions, which COCO ignores.
    """
    annotations: list[dict[str, Any]] = []
    for record in records:
        for item in record["annotations"]:
            box = xywh(item)
            ignored = is_crowd(item) or (ignore_difficult and item.get("difficult", 0))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": item["category_id"],
                    "bbox": box,
                    "area": item.get("area", box[2] * box[3]),
                    "iscrowd": int(bool(ignored)),
                }
            )
    return {
        "images": [{"id": record["image_id"]} for record in records],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(class_names)],
    }


def evaluate_all(truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> COCOeval_faster:
    """:func:`evaluate_boxes` where all detections count, more than COCO's 100 per image too."""
    most = max(Counter(item["image_id"] for item in detections).values(), default=0)
    return evaluate_boxes(truth, detections, limit=max(most, COCO_DETECTIONS))


def evaluate_boxes(
    truth: dict[str, Any],
    detections: Sequence[dict[str, Any]],
    image_ids: Iterable[Any] | None = None,
    limit: int = COCO_DETECTIONS,
) -> COCOeval_faster:
    """COCO's evaluation of boxes, summarized and logged.

    Args:
        truth: content of an annotation file. Nothing in it is changed, and the ids of its objects
            do not matter.
        detections: entries in COCO's format for results.
        image_ids: the images that count; None for all.
        limit: detections per image and class that count, those of the highest scores.

    Returns:
        With ``stats`` (12,) and ``eval["precision"]`` (IoUs, recalls, classes, areas, limits) as
        those of pycocotools.

    Raises:
        KeyError: if a detection is of an image that ``truth`` does not list.
    """
    # The library takes no names as ids of images, which sets in VOC's layout have. Numbers in the
    # order of the ids keep the order in which pycocotools takes detections of equal score.
    order = sorted({image["id"] for image in truth["images"]})
    numbers = {image_id: number for number, image_id in enumerate(order)}
    objects = [
        _entry(item, numbers, area=item["area"], iscrowd=item["iscrowd"]) | {"id": position}
        for position, item in enumerate(truth["annotations"], start=1)
        if item["image_id"] in numbers
    ]
    found = [
        _entry(item, numbers, area=item["bbox"][2] * item["bbox"][3], iscrowd=0)
        | {"id": position, "score": item["score"]}
        for position, item in enumerate(detections, start=1)
    ]
    shared = {
        "images": [{"id": number} for number in numbers.values()],
        "categories": truth["categories"],
    }
    evaluation = COCOeval_faster(
        COCO({**shared, "annotations": objects}),
        COCO({**shared, "annotations": found}),
        "bbox",
        print_function=logger.debug,
    )
    evaluation.params.maxDets = [1, 10, limit]
    if image_ids is not None:
        evaluation.params.imgIds = [numbers[image_id] for image_id in image_ids]
    evaluation.evaluate()
    evaluation.accumulate()
    lines: list[str] = []
    evaluation.print_function = lines.append
    evaluation.summarize()
    logger.info("\n".join(["Summary:", *lines]))
    return evaluation


def _entry(
    item: dict[str, Any], numbers: dict[Any, int], area: float, iscrowd: int
) -> dict[str, Any]:
    """What a box needs to be matched."""
    return {
        "image_id": numbers[item["image_id"]],
        "category_id": item["category_id"],
        "bbox": item["bbox"],
        "area": area,
        "iscrowd": iscrowd,
    }
