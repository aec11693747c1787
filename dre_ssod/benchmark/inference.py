"""Detection in images, one by one and in batches, against plain Detectron2 on the same network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Instances
from torch import Tensor, nn

from dre_ssod.benchmark.boxes import threshold_for
from dre_ssod.benchmark.report import Goal, Report, Row
from dre_ssod.benchmark.timing import interleave, machine, ratio
from dre_ssod.data.mappers import EvaluationMapper
from dre_ssod.data.sources.catalog import load_unlabeled
from dre_ssod.deployment.trained_model import load_trained
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN, uses_channels_last

MAX_RATIO = 1.10
# Largest difference of a box, in pixels: on a CPU none, on a GPU what rounding can do.
MAX_DIFFERENCE = {"cpu": 0.0, "cuda": 0.05}
CANDIDATES = 200
"""Boxes per image that go into NMS where random weights have to do for trained ones."""

Batch = list[dict[str, Any]]


class Detectors:
    """A config's detector and Detectron2's own with the same weights, and images for both."""

    def __init__(self, cfg: CfgNode, images: int) -> None:
        """
        Args:
            cfg: complete; without MODEL.WEIGHTS the detector is random, and its score threshold
                lets CANDIDATES boxes per image through.
            images: how many of DATASETS.TEST, or of DATASETS.TRAIN if that is empty.
        """
        names = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
        mapper = EvaluationMapper.from_config(cfg)
        self.images: Batch = [mapper(record) for record in load_unlabeled(names)[:images]]
        ours: Any = load_trained(cfg) if cfg.MODEL.WEIGHTS else build_model(cfg).eval()
        self.ours: SemiSupervisedRCNN = ours
        self.plain = plain_detector(cfg, self.ours)
        if not cfg.MODEL.WEIGHTS:
            threshold = matching_threshold(self.ours, self.images[:4])
            for model in (self.ours, self.plain):
                model.roi_heads.box_predictor.test_score_thresh = threshold

    def run(self, model: nn.Module, size: int) -> list[Instances]:
        """Detections of all images, ``size`` to a batch."""
        return detect(model, self.images, size)


@torch.no_grad()
def detect(model: nn.Module, images: Batch, size: int) -> list[Instances]:
    """Detections of images, ``size`` to a batch."""
    batches = range(0, len(images), size)
    found = [model(images[start : start + size]) for start in batches]
    return [output["instances"] for output in itertools.chain.from_iterable(found)]


def plain_detector(cfg: CfgNode, ours: SemiSupervisedRCNN) -> GeneralizedRCNN:
    """Detectron2's classes with the weights, the layout and the box coding of ``ours``."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = "smooth_l1"
    cfg.MODEL.TIMM.WEIGHTS = ""
    model: GeneralizedRCNN = build_model(cfg).eval()
    weights = ours.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    model.roi_heads.box_predictor.box2box_transform = ours.roi_heads.box_predictor.box2box_transform
    return model.to(memory_format=ours.memory_format)


@torch.no_grad()
def matching_threshold(model: SemiSupervisedRCNN, inputs: Batch) -> float:
    """The score that CANDIDATES boxes per image exceed, on average."""
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    predictions = model.roi_heads.predict(features, [p.proposal_boxes for p in proposals])
    probabilities = torch.cat(model.roi_heads.box_predictor.predict_probs(predictions, proposals))
    return threshold_for(probabilities[:, :-1].flatten(), CANDIDATES * len(inputs))


def benchmark_inference(cfg: CfgNode, rounds: int, images: int, batch: int) -> Report:
    """Time images one by one and ``batch`` together, from pixels to boxes in the images' frames."""
    detectors = Detectors(cfg, images)
    ours, plain, count = detectors.ours, detectors.plain, len(detectors.images)
    timings = interleave(
        {
            "one by one": lambda: detectors.run(ours, 1),
            "batches": lambda: detectors.run(ours, batch),
            "Detectron2": lambda: detectors.run(plain, 1),
        },
        rounds,
        ours.device,
    )
    names = {
        "one by one": "one by one, per image",
        "batches": f"batches of {batch}, per image",
        "Detectron2": "Detectron2's classes without this project's, one by one, per image",
    }
    single = detectors.run(ours, 1)
    settings = {
        "images": count,
        "sizes": sorted({tuple(x["image"].shape[-2:]) for x in detectors.images}),
        "batch": batch,
        "detections per image": sum(map(len, single)) / count,
        "channels_last": uses_channels_last(cfg),
        "weights": cfg.MODEL.WEIGHTS or "random",
        "rounds": rounds,
    }
    report = Report("inference", settings, machine(ours.device))
    report.rows = [Row.milliseconds(names[key], timing, count) for key, timing in timings.items()]
    over_single = ratio(timings["batches"], timings["one by one"])
    report.rows.append(Row("batches over one by one", over_single, ""))
    over_plain = ratio(timings["one by one"], timings["Detectron2"])
    different, largest = compare(detectors.run(ours, batch), single)
    bound = MAX_DIFFERENCE[ours.device.type]
    report.goals = [
        Goal("one by one over Detectron2", over_plain, MAX_RATIO),
        Goal("images in which a batch finds other boxes or classes", different, 0),
        Goal("largest difference of a box by the batch", largest, bound, "pixels"),
    ]
    return report


def compare(first: Sequence[Instances], second: Sequence[Instances]) -> tuple[int, float]:
    """How many images differ in number or classes of detections; and of the others, the largest
    difference of a coordinate in pixels, NaN where there is nothing to compare."""
    differences: list[Tensor] = []
    different = 0
    for one, other in zip(first, second, strict=True):
        if torch.equal(one.pred_classes, other.pred_classes):
            differences.append((one.pred_boxes.tensor - other.pred_boxes.tensor).abs().flatten())
        else:
            different += 1
    values = torch.cat(differences) if differences else torch.empty(0)
    return different, float(values.max()) if len(values) else math.nan
