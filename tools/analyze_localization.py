#!/usr/bin/env python
"""Does a detector know how well its boxes are placed? (figure 3 of the paper, and more)

    python tools/analyze_localization.py --config-file output/run/config.yaml \\
        MODEL.WEIGHTS output/run/model_final.pth

Runs a trained model over DATASETS.TEST and writes localization.json and localization.png: the true
IoU of the detections against their foreground score and against s_loc; whether the predicted sigma
of the edges is the true one, and which MODEL.ROI_BOX_HEAD.SIGMA_SCALE would make it so; precision,
right detections and IoU by quarter of s_loc; how far apart the weights of LER and PRC would lie, by
the settings of the run; the AP of the detections ranked by score, by s_loc and by the product. With
--min-score SSOD.SCORE_THRESHOLD the detections are what become pseudo-labels.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dre_ssod_cli.parsers import add_model_option, output, run_parser
from dre_ssod_cli.program import runner

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from dre_ssod.evaluation.localization import Quarter, SetReport, Spread
    from dre_ssod.evaluation.reliability import Reliability

logger = logging.getLogger("dre_ssod.analyze_localization")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments of a run and those of this tool."""
    parser = run_parser(__doc__)
    parser.add_argument(
        "--output",
        type=output,
        metavar="DIR",
        help="for what is written (default: OUTPUT_DIR/localization); with an address, as "
        "s3://BUCKET/NAME, log and config stay in that folder",
    )
    parser.add_argument(
        "--min-score", type=float, default=0.5, help="lowest foreground score (default: 0.5)"
    )
    add_model_option(parser)
    parsed = parser.parse_args(arguments)
    if parsed.resume or parsed.eval_only or (parsed.num_gpus, parsed.num_machines) != (1, 1):
        parser.error("runs in one process on a finished model: no --resume, --eval-only, --num-*")
    return parsed


def configure(args: argparse.Namespace) -> CfgNode:
    """The checked config, with OUTPUT_DIR where this tool writes, so that the run's stays as is.

    Raises:
        ConfigError: if there is nothing to test the model on, or no variance branch.
    """
    from dre_ssod.config.keys import without_refining
    from dre_ssod.config.reading import read_config
    from dre_ssod.deployment.trained_model import check_score, check_weights
    from dre_ssod.engine.setup import setup
    from dre_ssod.errors import ConfigError

    own = read_config(args.config_file, args.opts)
    folder = args.output if isinstance(args.output, Path) else f"{own.OUTPUT_DIR}/localization"
    args.opts = without_refining([*args.opts, "OUTPUT_DIR", str(folder)])
    cfg = setup(args, ExitStack())
    if own.TEST.RANK_BY_QUALITY or own.TEST.VARIANCE_VOTING.ENABLED:
        logger.info(
            "TEST.RANK_BY_QUALITY and TEST.VARIANCE_VOTING.ENABLED are off here: they replace the "
            "scores and the boxes that are analyzed."
        )
    check_score(cfg, "--min-score", args.min_score)
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: name labeled images that were not trained on.")
    loss_type = cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE
    if loss_type != "kl":
        raise ConfigError(
            f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE is {loss_type!r}, so there is no s_loc to "
            "analyze: use a model that was trained with 'kl'."
        )
    check_weights(cfg, cfg.DATASETS.TRAIN)
    return cfg


def tables_of(
    reports: dict[str, SetReport],
    sigma: dict[str, Reliability],
    rankings: dict[str, dict[str, dict[str, float | None]]],
    by_quality: list[Quarter],
    weights: dict[str, Spread],
) -> str:
    """Correlations, sigma, AP by ranking, quarters of s_loc and weights, as five tables."""
    from tabulate import tabulate

    from dre_ssod.evaluation.ranking import METRICS
    from dre_ssod.inspection.localization_figure import number

    correlations = [
        [name, part.n, label, number(found.spearman), number(found.pearson)]
        for name, part in reports.items()
        for label, found in (("score", part.score), ("s_loc", part.localization_quality))
    ]
    edges = [
        [name, part.n, number(part.mean), number(part.deviation), number(part.miscalibration)]
        for name, part in sigma.items()
    ]
    precisions = [
        [dataset, criterion, *map(number, figures.values())]
        for dataset, found in rankings.items()
        for criterion, figures in found.items()
    ]
    parts = [
        [rank, *(number(v) if isinstance(v, float | None) else v for v in asdict(part).values())]
        for rank, part in enumerate(by_quality, start=1)
    ]
    spreads = [[name, part.n, *map(number, list(asdict(part).values())[1:])]
               for name, part in weights.items()]  # fmt: skip
    tables = (
        (correlations, ["detections", "n", "IoU against", "Spearman", "Pearson"]),
        (edges, ["edge", "n", "mean z", "RMS z", "miscalibration"]),
        (precisions, ["dataset", "ranked by", *METRICS]),
        (parts, ["quarter", "n", "s_loc", "precision", "right / objects", "mean IoU"]),
        (spreads, ["weight", "n", "mean", "deviation", "5 %", "95 %"]),
    )
    return "\n\n".join(
        tabulate(rows, headers=headers, disable_numparse=True) for rows, headers in tables
    )


def write_analysis(cfg: CfgNode, args: argparse.Namespace, folder: Path) -> None:
    """Run, analyze, write, print."""
    from dre_ssod.data.records import objects_of
    from dre_ssod.data.sources.catalog import load_one_labeled
    from dre_ssod.deployment.trained_model import load_trained
    from dre_ssod.evaluation.localization import MATCH_IOU, Spread, analyze, quarters
    from dre_ssod.evaluation.localization_data import collect, weights_of
    from dre_ssod.evaluation.reliability import LEVELS, reliability
    from dre_ssod.files import open_whole, write_text
    from dre_ssod.inspection.localization_figure import draw_analysis
    from dre_ssod.runs.sets import seen_in_training

    tests = {name: load_one_labeled(name) for name in cfg.DATASETS.TEST}
    for text in seen_in_training(cfg, tests):
        logger.warning("%s", text)
    table, rankings = collect(cfg, load_trained(cfg, args.model), args.min_score)
    reports = analyze(table, args.min_score)
    sigma = reliability(table.residuals[table.ious >= MATCH_IOU])
    objects = sum(len(objects_of(record)) for records in tests.values() for record in records)
    by_quality = quarters(table, objects)
    weights = {name: Spread.of(values) for name, values in weights_of(table, cfg).items()}
    ratio = sigma["all"].deviation
    scale = None if ratio is None else cfg.MODEL.ROI_BOX_HEAD.SIGMA_SCALE * ratio
    content = {
        "weights": cfg.MODEL.WEIGHTS,
        "model": args.model,
        "datasets": list(cfg.DATASETS.TEST),
        "min_score": args.min_score,
        "min_iou_of_matched": MATCH_IOU,
        "sets": {name: asdict(part) for name, part in reports.items()},
        "coverage_levels": LEVELS,
        "sigma": {name: asdict(part) for name, part in sigma.items()},
        "rankings": rankings,
        "sigma_scale": scale,
        "quarters": [asdict(part) for part in by_quality],
        "weight_spreads": {name: asdict(part) for name, part in weights.items()},
    }
    write_text(folder / "localization.json", json.dumps(content, indent=2) + "\n")
    figure = draw_analysis(table, reports, sigma, rankings, args.min_score)
    with open_whole(folder / "localization.png") as picture:
        figure.savefig(picture, format="png")
    print(tables_of(reports, sigma, rankings, by_quality, weights))
    if scale is not None:
        print(f"\nRMS z is 1 on these images with MODEL.ROI_BOX_HEAD.SIGMA_SCALE {scale:.2f}")
    print(
        f"all: score >= {args.min_score}; matched, right, and edges: those with IoU >= {MATCH_IOU} "
        "to an object of their class, each where several meet one. z: (predicted - true edge) / "
        "sigma, without edges that the image's border cuts off in both. AP: over all detections."
    )


def main(args: argparse.Namespace) -> None:
    """Analyze, say where the result is."""
    from dre_ssod.stores import any_folder, delivered_folder

    cfg = configure(args)
    output = args.output if isinstance(args.output, str) else Path(cfg.OUTPUT_DIR)
    with delivered_folder(output, any_folder) as (folder, place):
        write_analysis(cfg, args, folder)
    print(f"Written to {place}: localization.json, localization.png")


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
