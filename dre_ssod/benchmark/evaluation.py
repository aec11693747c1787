"""COCO's evaluation of boxes as the evaluators do it, against pycocotools."""

from __future__ import annotations

import contextlib
import io
from importlib.metadata import version
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.datasets.coco import convert_to_coco_dict
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dre_ssod.benchmark.boxes import draw_detections, draw_truth
from dre_ssod.benchmark.report import Goal, Report, Row
from dre_ssod.benchmark.timing import Timing, interleave, machine, ratio
from dre_ssod.data.sources.catalog import ensure_registered
from dre_ssod.errors import ConfigError
from dre_ssod.evaluation.coco import evaluate_boxes

MAX_DIFFERENCE = 1e-6
CLASSES = 80
SEED = 0


def benchmark_evaluation(cfg: CfgNode, rounds: int, images: int) -> Report:
    """Time both on the same drawn detections, and compare all that they compute.

    Args:
        cfg: the first set of its DATASETS.TEST gives the objects; where it names none, they are
            drawn, with the statistics of COCO's.
        images: how many are evaluated.
    """
    truth, source = _truth(cfg, images)
    detections = draw_detections(truth, SEED)
    api = COCO()
    api.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    last: dict[str, Any] = {}

    def official() -> None:
        last["pycocotools"] = _official(api, detections)

    def ours() -> None:
        last["faster-coco-eval"] = evaluate_boxes(truth, detections)

    timings = interleave({"faster-coco-eval": ours, "pycocotools": official}, rounds)
    settings = {
        "objects of": source,
        "images": len(truth["images"]),
        "classes": len(truth["categories"]),
        "objects": len(truth["annotations"]),
        "detections": len(detections),
        "rounds": rounds,
    }
    versions: dict[str, str | int] = {name: version(name) for name in timings}
    return _report(settings, machine("cpu") | versions, timings, last)


def _truth(cfg: CfgNode, images: int) -> tuple[dict[str, Any], str]:
    """Content of an annotation file, and where it comes from."""
    if not cfg.DATASETS.TEST:
        return draw_truth(images, CLASSES, SEED), "a generated set"
    name = ensure_registered(cfg.DATASETS.TEST[0])
    truth: dict[str, Any] = convert_to_coco_dict(name)
    truth["images"] = truth["images"][:images]
    kept = {image["id"] for image in truth["images"]}
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in kept]
    if not truth["annotations"]:
        raise ConfigError(
            f"the first {len(kept)} images of {name} have no objects: name another set in "
            "DATASETS.TEST, or raise --images"
        )
    return truth, name


def _official(api: COCO, detections: list[dict[str, Any]]) -> COCOeval:
    """What Detectron2's evaluator does with detections."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(api, api.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _report(
    settings: dict[str, Any],
    machine_and_versions: dict[str, str | int],
    timings: dict[str, Timing],
    last: dict[str, Any],
) -> Report:
    ours, theirs = last["faster-coco-eval"], last["pycocotools"]
    differences = {
        "the 12 figures": _largest(ours.stats, theirs.stats),
        "precisions": _largest(ours.eval["precision"], theirs.eval["precision"]),
        "recalls": _largest(ours.eval["recall"], theirs.eval["recall"]),
    }
    report = Report("eval", settings, machine_and_versions)
    report.rows = [Row.seconds(name, timing) for name, timing in timings.items()]
    report.rows.append(Row("AP", float(ours.stats[0]), ""))
    report.rows += [Row(f"largest difference of {n}", v, "") for n, v in differences.items()]
    report.goals = [
        Goal("largest difference", max(differences.values()), MAX_DIFFERENCE),
        Goal(
            "faster-coco-eval over pycocotools",
            ratio(timings["faster-coco-eval"], timings["pycocotools"]),
            1.0,
        ),
    ]
    return report


def _largest(first: Any, second: Any) -> float:
    return float(np.abs(np.asarray(first) - np.asarray(second)).max())
