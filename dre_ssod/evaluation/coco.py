"""COCO's average precision by faster-coco-eval: the figures of pycocotools in a tenth of the time.

tests/evaluation/test_coco compares the two, and ``tools/benchmark.py eval`` times them.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOEvaluator
from faster_coco_eval import COCO, COCOeval_faster

from dre_ssod.files import write_text

logger = logging.getLogger(__name__)


class BoxEvaluator(COCOEvaluator):
    """Detectron2's COCO-style AP of boxes, with another library for the matching."""

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        """
        Args:
            dataset_name: a set with ``json_file`` in its metadata.
            output_dir: where detections go; None to write none.
        """
        super().__init__(dataset_name, ("bbox",), output_dir=output_dir, use_fast_impl=False)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Iterable[Any] | None = None
    ) -> None:
        found = self._detections(predictions)
        if self._output_dir:
            path = Path(self._output_dir) / "coco_instances_results.json"
            logger.info("Saving detections to %s", path)
            write_text(path, json.dumps(found))
        if not self._do_evaluation:
            logger.info("Annotations are not available for evaluation.")
            return
        logger.info("Evaluating %d detections with faster-coco-eval", len(found))
        evaluation = evaluate_boxes(self._coco_api.dataset, found, img_ids) if found else None
        self._results["bbox"] = self._derive_coco_results(
            evaluation, "bbox", class_names=self._metadata.get("thing_classes")
        )

    def _detections(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of all images, with the category ids of the annotation file."""
        contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        ids = {index: category for category, index in contiguous.items()}
        return [
            {**item, "category_id": ids[item["category_id"]] if ids else item["category_id"]}
            for item in itertools.chain.from_iterable(p["instances"] for p in predictions)
        ]


def evaluate_boxes(
    truth: dict[str, Any],
    detections: Sequence[dict[str, Any]],
    image_ids: Iterable[Any] | None = None,
) -> COCOeval_faster:
    """COCO's evaluation of boxes, summarized and logged.

    Args:
        truth: content of an annotation file. Nothing in it is changed.
        detections: entries in COCO's format for results, at least one.
        image_ids: the images that count; None for all.

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
        _entry(item, numbers, area=item["area"], iscrowd=item["iscrowd"])
        # 0 stays: pycocotools takes an object of that id for one that no detection finds.
        | {"id": position if item["id"] else 0}
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
