"""The detections of a model over the test sets, with what is true of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.structures import Instances
from torch import nn
from tqdm import tqdm

from dre_ssod.data.records import corners, is_crowd
from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.evaluation.evaluators import build_test_loader, file_slug
from dre_ssod.evaluation.localization import MATCH_IOU, DetectionTable, FloatArray, match
from dre_ssod.evaluation.pseudo_labels import detections_in_crowd
from dre_ssod.evaluation.ranking import RankingEvaluation
from dre_ssod.methods.dre import emphasized, relative
from dre_ssod.modeling.gaussian import best_quality

ROUNDING, ONE_PIXEL = 0.01, 1.0
"""How far from the border, in pixels, a predicted edge is clipped there; and a true one, which some
annotations count from 0 to the last pixel."""


def collect(
    cfg: CfgNode, model: nn.Module, min_score: float
) -> tuple[DetectionTable, dict[str, dict[str, dict[str, float | None]]]]:
    """Go once over all of DATASETS.TEST.

    Returns:
        The detections of at least ``min_score`` with their true IoU and residuals; and, over all
        detections, the AP metrics by dataset and ranking criterion.
    """
    tables = []
    rankings = {}
    with inference_context(model), torch.no_grad():
        for name in cfg.DATASETS.TEST:
            truth = {r["image_id"]: r["annotations"] for r in load_one_labeled(name)}
            ranking = RankingEvaluation(name, str(Path(cfg.OUTPUT_DIR) / file_slug(name)))
            loader = build_test_loader(cfg, name)
            for batch in tqdm(loader, desc=name, unit="batch", disable=None):
                outputs = [{"instances": o["instances"].to("cpu")} for o in model(batch)]
                ranking.process(batch, outputs)
                for inputs, output in zip(batch, outputs, strict=True):
                    detections = output["instances"]
                    confident = detections[detections.scores >= min_score]
                    tables.append(compare(confident, truth[inputs["image_id"]]))
            rankings[name] = ranking.results()
    return DetectionTable.concatenate(tables), rankings


def compare(detections: Instances, annotations: list[dict[str, Any]]) -> DetectionTable:
    """The detections of one image against its objects.

    Crowd regions are no objects, and what lies in one of its class and meets no object is left out,
    as in COCO's evaluation. Edges that the image's border cuts off in prediction and truth alike
    say nothing of sigma: they have no residual.
    """
    objects = [item for item in annotations if not is_crowd(item)]
    boxes = detections.pred_boxes.tensor.numpy()
    ious, matched = match(
        boxes,
        detections.pred_classes.numpy(),
        np.array([corners(o) for o in objects], dtype=np.float64).reshape(-1, 4),
        np.array([o["category_id"] for o in objects], dtype=np.int64),
    )
    table = DetectionTable(
        scores=detections.scores.numpy(),
        qualities=detections.localization_quality.numpy(),
        ious=ious,
        residuals=np.where(
            _cut_off(boxes, matched, detections.image_size),
            np.nan,
            (boxes - matched) / detections.pred_boxes_sigma.numpy(),
        ),
    )
    return table.rows((ious >= MATCH_IOU) | ~detections_in_crowd(detections, annotations).numpy())


def _cut_off(
    boxes: FloatArray, matched: FloatArray, size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """(D, 4) whether predicted and true edge lie on the border of an image of (height, width)."""
    border = np.array([0, 0, size[1], size[0]])
    predicted = np.abs(boxes - border) <= ROUNDING
    found: npt.NDArray[np.bool_] = predicted & (np.abs(matched - border) <= ONE_PIXEL)
    return found


def weights_of(table: DetectionTable, cfg: CfgNode) -> dict[str, FloatArray]:
    """(D,) weights that LER and PRC would give detections by the settings of a config, by formula.

    The score of a detection stands for the teacher's opinion of a region, and with
    ``SSOD.RELATIVE_WEIGHTS`` the detections for the foreground regions of a batch.
    """
    power, best = cfg.SSOD.QUALITY_POWER, best_quality(cfg.SSOD.RESCALE_LOCALIZATION_QUALITY)
    quality = emphasized(torch.as_tensor(table.qualities), power, best)
    formula = "s_loc" if power == 1 else f"s_max * (s_loc / s_max)^{power:g}"
    weights = {"LER": quality, "PRC": torch.as_tensor(table.scores) * quality}
    formulas = {"LER": formula, "PRC": f"score * {formula}"}
    if cfg.SSOD.RELATIVE_WEIGHTS:
        everywhere = torch.ones(len(table), dtype=torch.bool)
        weights = {name: relative(values, everywhere) for name, values in weights.items()}
        formulas = {name: f"{text} / mean" for name, text in formulas.items()}
    return {f"{formulas[name]} ({name})": values.numpy() for name, values in weights.items()}
