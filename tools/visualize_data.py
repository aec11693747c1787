#!/usr/bin/env python
"""Draw what a config makes of its images: are boxes, views and their alignment right?

    python tools/visualize_data.py --config-file configs/quickstart.yaml --images 8

For labeled images: the labeled view, the weak and the strong view with the labels mapped as
pseudo-labels would be, and a checkerboard of both. With --pseudo-labels, for unlabeled images, the
panels of training by the teacher and the student of MODEL.WEIGHTS.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dre_ssod_cli.parsers import count, output, program_parser, whole
from dre_ssod_cli.program import runner

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from dre_ssod.data.splits.pools import Pools


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = program_parser(__doc__)
    parser.add_argument("--config-file", metavar="FILE", required=True)
    parser.add_argument(
        "--output",
        type=output,
        metavar="DIR",
        help="new folder; a path or an address, as s3://BUCKET/NAME (default: "
        "OUTPUT_DIR/data_panels)",
    )
    parser.add_argument("--images", type=count, default=8, help="how many (default: 8)")
    parser.add_argument("--seed", type=whole, default=0, help="of images and views (default: 0)")
    parser.add_argument(
        "--pseudo-labels", action="store_true", help="draw panels of unlabeled images as well"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    return parser.parse_args(arguments)


def configure(args: argparse.Namespace) -> CfgNode:
    """The checked config; sets ``args.output`` where the user did not."""
    from detectron2.utils.logger import setup_logger

    from dre_ssod.config.checks import check_config
    from dre_ssod.config.effects import check_effects, say_unread
    from dre_ssod.config.reading import read_config
    from dre_ssod.deployment.trained_model import check_weights
    from dre_ssod.engine.setup import complete

    cfg = read_config(args.config_file, args.opts)
    check_config(cfg, 1)
    check_effects(cfg, args.opts[::2])
    setup_logger(name="dre_ssod")
    say_unread(cfg)
    complete(cfg)
    if args.pseudo_labels and cfg.MODEL.WEIGHTS:
        # Panels name classes as DATASETS.TRAIN does.
        check_weights(cfg, cfg.DATASETS.TRAIN)
    if args.output is None:
        args.output = Path(cfg.OUTPUT_DIR) / "data_panels"
    return cfg


def draw_labeled(cfg: CfgNode, pools: Pools, args: argparse.Namespace, folder: Path) -> None:
    """One picture for each of ``--images`` labeled images."""
    import numpy as np
    from tqdm import tqdm

    from dre_ssod.data.images import ImageError
    from dre_ssod.inspection.data_panels import DataPanels
    from dre_ssod.inspection.panels import write_picture

    panels = DataPanels(cfg, pools.classes)
    chosen = _choose(len(pools.labeled), args)
    for number in tqdm(range(len(chosen)), desc="labeled", unit="image", disable=None):
        rng = np.random.default_rng([args.seed, 0, number])
        try:
            picture = panels.draw(pools.labeled[chosen[number]], rng)
        except ImageError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        write_picture(folder / f"labeled_{number:03d}.jpg", picture)


def draw_unlabeled(cfg: CfgNode, pools: Pools, args: argparse.Namespace, folder: Path) -> None:
    """The panels of training for ``--images`` unlabeled images."""
    import numpy as np
    from tqdm import tqdm

    from dre_ssod.checkpoints.weights import load_student, method_state
    from dre_ssod.data.images import ImageError
    from dre_ssod.deployment.trained_model import load_trained
    from dre_ssod.errors import ConfigError
    from dre_ssod.inspection.inspect import inspect
    from dre_ssod.inspection.panels import draw_inspection, write_picture
    from dre_ssod.methods import Clock, build_method
    from dre_ssod.modeling.rcnn import SemiSupervisedRCNN

    if not pools.unlabeled:
        raise ConfigError("--pseudo-labels: the config has no unlabeled images")
    teacher = load_trained(cfg)
    assert isinstance(teacher, SemiSupervisedRCNN), "checked by check_config"
    student = copy.deepcopy(teacher)
    if not load_student(cfg.MODEL.WEIGHTS, student):
        print(f"{cfg.MODEL.WEIGHTS} holds no student: proposals are those of its model")
    student.train()
    method = build_method(cfg)
    pools = method.prepare(pools)
    method.study(pools)
    # As the finished run would label.
    name = type(method).__name__
    if state := method_state(cfg.MODEL.WEIGHTS, name):
        method.load_state_dict(state)
    elif method.state_dict():
        print(
            f"{cfg.MODEL.WEIGHTS} does not say what {name} has learned of unlabeled images: labels "
            "are those of its start"
        )
    last = cfg.SOLVER.MAX_ITER - 1
    clock = Clock(last, cfg.SSOD.BURN_IN_ITERS, cfg.SOLVER.MAX_ITER)
    _, mapper = method.mappers(cfg)
    chosen = _choose(len(pools.unlabeled), args)
    for number in tqdm(range(len(chosen)), desc="unlabeled", unit="image", disable=None):
        rng = np.random.default_rng([args.seed, 1, number])
        try:
            sample = mapper(pools.unlabeled[chosen[number]], rng)
        except ImageError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        [found] = inspect(teacher, student, [sample], method, clock, seed=number)
        picture = draw_inspection(found, pools.classes, cfg.INPUT.FORMAT)
        write_picture(folder / f"unlabeled_{number:03d}.jpg", picture)


def _choose(size: int, args: argparse.Namespace) -> list[int]:
    """Different indices, at most ``--images``."""
    import numpy as np

    rng = np.random.default_rng(args.seed)
    return [int(index) for index in rng.permutation(size)[: args.images]]


def main(args: argparse.Namespace) -> None:
    """Draw the views of labeled images and, if asked for, the panels of unlabeled ones."""
    from dre_ssod.engine.training_data import load_pools
    from dre_ssod.stores import delivered_folder

    cfg = configure(args)
    with delivered_folder(args.output) as (folder, place):
        pools = load_pools(cfg)
        folder.mkdir(parents=True, exist_ok=True)
        draw_labeled(cfg, pools, args, folder)
        if args.pseudo_labels:
            draw_unlabeled(cfg, pools, args, folder)
        pictures = len(list(folder.iterdir()))
    print(f"Written to {place}: {pictures} pictures")


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
