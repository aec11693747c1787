#!/usr/bin/env python
"""Does the localization quality score tell how well a box is placed? (figure 3 of the paper)

    python tools/analyze_localization.py --config-file output/run/config.yaml \\
        MODEL.WEIGHTS output/run/model_final.pth

Runs a trained model over DATASETS.TEST, compares the true IoU of its detections with their
foreground score and with s_loc, and writes localization.json and localization.png.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode, Instances
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter, map_coordinates
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from dre_ssod.config import get_cfg
from dre_ssod.config_checks import ConfigError
from dre_ssod.data.sources import load_one_labeled
from dre_ssod.engine.localization_analysis import (
    Correlation,
    DetectionTable,
    SetReport,
    analyze,
    true_ious,
)
from dre_ssod.engine.setup import setup
from dre_ssod.engine.trainer import SSODTrainer

MIN_IOU = 0.5
DENSITY_BINS = 120
VARIANCE_KEY = "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's arguments and the two of this tool."""
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument(
        "--output", metavar="DIR", help="for what is written (default: OUTPUT_DIR/localization)"
    )
    parser.add_argument(
        "--min-score", type=float, default=0.5, help="lowest foreground score (default: 0.5)"
    )
    parsed = parser.parse_args(arguments)
    if parsed.resume or parsed.eval_only or (parsed.num_gpus, parsed.num_machines) != (1, 1):
        parser.error("runs in one process on a finished model: no --resume, --eval-only, --num-*")
    return parsed


def configure(args: argparse.Namespace) -> CfgNode:
    """The checked config, with OUTPUT_DIR where this tool writes, so that the run's stays as is.

    Raises:
        ConfigError: if there is no model, nothing to test it on, or no variance branch in it.
    """
    if args.output is None:
        own = get_cfg()
        if args.config_file:
            own.merge_from_file(args.config_file)
        own.merge_from_list(args.opts)
        args.output = str(Path(own.OUTPUT_DIR) / "localization")
    args.opts = [*args.opts, "OUTPUT_DIR", args.output]
    cfg = setup(args)
    lowest = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    if not lowest <= args.min_score <= 1.0:
        raise ConfigError(
            f"--min-score is {args.min_score}; it must lie between "
            f"MODEL.ROI_HEADS.SCORE_THRESH_TEST, {lowest}, below which the model detects nothing, "
            "and 1."
        )
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: name labeled images that were not trained on.")
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "MODEL.WEIGHTS is empty: append MODEL.WEIGHTS and a trained model's file."
        )
    if cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE != "kl":
        _refuse_model(f"{VARIANCE_KEY} is {cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE!r}")
    return cfg


def load_model(cfg: CfgNode) -> nn.Module:
    """The model of MODEL.WEIGHTS.

    Raises:
        ConfigError: if the file has no variance branch.
    """
    model: nn.Module = SSODTrainer.build_model(cfg)
    weight = model.get_parameter("roi_heads.box_predictor.log_variance.weight")
    # Weights that the file lacks keep their values: these show it.
    nn.init.constant_(weight, float("nan"))
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    if weight.isnan().any():
        _refuse_model(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} holds no variance branch")
    return model


def _refuse_model(reason: str) -> None:
    raise ConfigError(
        f"{reason}, so there is no s_loc to analyze: use a model that was trained with "
        f"{VARIANCE_KEY} 'kl'."
    )


def collect(cfg: CfgNode, model: nn.Module, min_score: float) -> DetectionTable:
    """Detections of at least ``min_score`` on all of DATASETS.TEST, with their true IoU."""
    tables = []
    with inference_context(model), torch.no_grad():
        for name in cfg.DATASETS.TEST:
            truth = {r["image_id"]: r["annotations"] for r in load_one_labeled(name)}
            loader = SSODTrainer.build_test_loader(cfg, name)
            for batch in tqdm(loader, desc=name, unit="batch", disable=None):
                for inputs, outputs in zip(batch, model(batch), strict=True):
                    detections = outputs["instances"].to("cpu")
                    detections = detections[detections.scores >= min_score]
                    tables.append(compare(detections, truth[inputs["image_id"]]))
    return DetectionTable.concatenate(tables)


def compare(detections: Instances, annotations: list[dict[str, Any]]) -> DetectionTable:
    """The detections of one image against its objects; crowd regions are no objects."""
    objects = [item for item in annotations if not item.get("iscrowd", 0)]
    gt_boxes = [BoxMode.convert(o["bbox"], o["bbox_mode"], BoxMode.XYXY_ABS) for o in objects]
    return DetectionTable(
        scores=detections.scores.numpy(),
        qualities=detections.localization_quality.numpy(),
        ious=true_ious(
            detections.pred_boxes.tensor.numpy(),
            detections.pred_classes.numpy(),
            np.array(gt_boxes, dtype=np.float64).reshape(-1, 4),
            np.array([o["category_id"] for o in objects], dtype=np.int64),
        ),
    )


def draw(table: DetectionTable, reports: dict[str, SetReport], min_score: float) -> Figure:
    """Figure 3: IoU against foreground score, and against s_loc."""
    figure = Figure(figsize=(11.5, 5.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    whole, matched = reports["all"], reports["matched"]
    _scatter(left, table.scores, table.ious)
    _title(left, "Foreground score", whole, whole.score, matched, matched.score)
    left.set(xlabel="foreground score", ylabel="IoU with the ground truth", ylim=(-0.03, 1.03))
    left.set_xlim(min_score - 0.01, 1.01)
    points = _scatter(right, table.qualities, table.ious)
    _title(
        right,
        "Localization quality score",
        whole,
        whole.localization_quality,
        matched,
        matched.localization_quality,
    )
    right.set_xlabel("localization quality score $s^{loc}$ (eq. 5)")
    bar = figure.colorbar(points, ax=[left, right], pad=0.01, aspect=30, ticks=[0, 1])
    bar.ax.set_yticklabels(["sparse", "dense"])
    bar.set_label("density of detections, each panel to its own maximum", labelpad=-16)
    return figure


def _scatter(axes: Axes, values: npt.NDArray[Any], ious: npt.NDArray[Any]) -> Any:
    """One point per detection, coloured by how many are near, the densest on top."""
    density = point_density(values, ious)
    order = np.argsort(density)
    size = float(np.clip(6000 / max(len(values), 1), 5, 22))
    axes.axhline(MIN_IOU, color="gray", linewidth=1, linestyle="--", zorder=0)
    axes.grid(alpha=0.25)
    return axes.scatter(
        values[order],
        ious[order],
        c=density[order],
        s=size,
        cmap="viridis",
        vmin=0,
        vmax=1,
        linewidths=0,
        alpha=0.85,
    )


def point_density(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(D,) smoothed density at (D,) points, 1 at the densest; the cost grows linearly with D."""
    if len(x) == 0:
        return np.zeros(0)
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=DENSITY_BINS)
    smooth = gaussian_filter(counts, sigma=DENSITY_BINS / 40, mode="constant")
    cells = [
        (values - edges[0]) / (edges[1] - edges[0]) - 0.5
        for values, edges in ((x, x_edges), (y, y_edges))
    ]
    density: npt.NDArray[Any] = map_coordinates(smooth, cells, order=1, mode="nearest")
    return density / density.max()


def _title(
    axes: Axes,
    name: str,
    whole: SetReport,
    of_whole: Correlation,
    matched: SetReport,
    of_matched: Correlation,
) -> None:
    lines = [
        f"{label} (n = {part.n:,}):  Spearman {_number(found.spearman)},  "
        f"Pearson {_number(found.pearson)}"
        for label, part, found in (
            ("all", whole, of_whole),
            (f"IoU ≥ {MIN_IOU}", matched, of_matched),
        )
    ]
    axes.set_title("\n".join([name, *lines]), fontsize=10)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def table_of(reports: dict[str, SetReport]) -> str:
    """The correlations, one line per set and criterion."""
    rows = [
        [name, part.n, label, _number(found.spearman), _number(found.pearson)]
        for name, part in reports.items()
        for label, found in (("score", part.score), ("s_loc", part.localization_quality))
    ]
    headers = ["detections", "n", "IoU against", "Spearman", "Pearson"]
    return tabulate(rows, headers=headers, disable_numparse=True)


def main(arguments: list[str] | None = None) -> None:
    """Run, analyze, write, print."""
    args = parse_arguments(arguments)
    cfg = configure(args)
    table = collect(cfg, load_model(cfg), args.min_score)
    reports = analyze(table, args.min_score, MIN_IOU)
    folder = Path(cfg.OUTPUT_DIR)
    content = {
        "weights": cfg.MODEL.WEIGHTS,
        "datasets": list(cfg.DATASETS.TEST),
        "min_score": args.min_score,
        "min_iou_of_matched": MIN_IOU,
        "sets": {name: asdict(part) for name, part in reports.items()},
    }
    (folder / "localization.json").write_text(json.dumps(content, indent=2) + "\n")
    draw(table, reports, args.min_score).savefig(folder / "localization.png")
    print(table_of(reports))
    print(
        f"all: score >= {args.min_score}; matched: those with IoU >= {MIN_IOU} to an object of "
        f"their class. Written to {folder}: localization.json, localization.png"
    )


if __name__ == "__main__":
    main()
