#!/usr/bin/env python
"""Train on the built-in sample set, without and with unlabeled images, and show what they gain.

    python tools/quickstart.py [--seed 1] [--output output/demo] [KEY VALUE ...]

Both runs train the same detector and see the same labeled images equally often; one of them has
unlabeled images too. Until it uses them both are the same, so that part is trained once. An
interrupted demo continues where it stopped; a finished one evaluates and reports again, and is
refused with other settings.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dre_ssod_cli.parsers import program_parser, worked_in
from dre_ssod_cli.program import runner

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from dre_ssod.report.folders import RunFolder
    from dre_ssod.tables.schedule import Job

ROOT = Path(__file__).resolve().parent.parent
RUNS = {
    "supervised": ROOT / "configs/baselines/quickstart_supervised.yaml",
    "semi-supervised": ROOT / "configs/quickstart.yaml",
}
PROGRAM = ROOT / "train_net.py"
METRICS = ("AP", "AP50", "AP75")
DRAWN_IMAGES = 3
SPREAD = 1.5
"""AP by which a run of the sample set differs from one seed or machine to the next, about; as long
and on the images that RUNS say."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = program_parser(__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of both runs (default: 1)")
    parser.add_argument(
        "--output", type=worked_in, default=Path("output/demo"), help="folder of runs"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values, both runs")
    return parser.parse_args(arguments)


def check_report(cfg: CfgNode) -> None:
    """Refuse what leaves the closing table without numbers, before the training.

    Raises:
        ConfigError: if not both models are evaluated, or not on one set.
    """
    from dre_ssod.settings import refuse

    if cfg.SSOD.EVAL_MODEL != "both":
        refuse(cfg, "SSOD.EVAL_MODEL", "'both' here, since the demo shows AP of both: leave it out")
    if len(cfg.DATASETS.TEST) != 1:
        refuse(
            cfg,
            "DATASETS.TEST",
            "one set here, since the demo's table is of one, such as \"('sample://val',)\"; "
            "evaluate on others afterwards by train_net.py --eval-only",
        )


def refuse_changes(run: Path, cfg: CfgNode) -> None:
    """Refuse other settings for a run that has ended: none of its numbers would be by them.

    Raises:
        ConfigError: naming the keys.
    """
    from dre_ssod.errors import ConfigError
    from dre_ssod.runs.detector import read_detector
    from dre_ssod.runs.resuming import KEPT, changed_keys

    ended = read_detector(run / "model_final.pth")
    if ended is None or ended.settings["SOLVER.MAX_ITER"] != cfg.SOLVER.MAX_ITER:
        return
    heads = cfg.MODEL.ROI_HEADS
    # 0 stands for the number in the data.
    heads.NUM_CLASSES = heads.NUM_CLASSES or ended.settings["MODEL.ROI_HEADS.NUM_CLASSES"]
    changed = [key for key in changed_keys(ended.settings, cfg) if key not in KEPT]
    if changed:
        raise ConfigError(
            f"{run} has ended, and other settings would not change its numbers: "
            f"{', '.join(changed)} differ from those of its end. Name another folder with "
            "--output, or leave the keys as they were; a larger SOLVER.MAX_ITER trains on"
        )


def make_jobs(runs: Mapping[str, Path], args: argparse.Namespace) -> list[Job]:
    """The two runs: the supervised one begins where the burn-in of the other ends.

    Args:
        runs: their folders, by name.

    Raises:
        ConfigError: if a key cannot be used, the runs could not be reported, or one has ended
            with other settings.
    """
    from dre_ssod.checkpoints.folder import BURN_IN
    from dre_ssod.config.reading import read_config
    from dre_ssod.tables.plan import take_over
    from dre_ssod.tables.schedule import Job

    configs = {name: read_config(str(path), args.opts) for name, path in RUNS.items()}
    for cfg in configs.values():
        check_report(cfg)

    def job(name: str, opts: Sequence[str] = (), **order: Any) -> Job:
        solver = configs[name].SOLVER
        keys = ["SEED", str(args.seed), *opts, "OUTPUT_DIR", str(runs[name]), *args.opts]
        refuse_changes(runs[name], read_config(str(RUNS[name]), keys))
        words = ["--config-file", str(RUNS[name]), "--resume", *keys]
        return Job(name, runs[name], words, solver.MAX_ITER, solver.IMS_PER_BATCH, **order)

    shared = runs["semi-supervised"] / BURN_IN
    begin = partial(take_over, shared, runs["supervised"])
    burn_in = configs["semi-supervised"].SSOD.BURN_IN_ITERS
    return [
        job("semi-supervised", ["SSOD.BURN_IN_KEPT", "True"] if burn_in else []),
        job("supervised", begins=burn_in, after="semi-supervised", needs=shared, prepare=begin),
    ]


def count_images(run: RunFolder) -> Counter[str]:
    """Labeled, unlabeled and test images of a run."""
    counts: Counter[str] = Counter()
    for row in run.sets:
        counts[row["role"]] += row["images"]
    return counts


def say_spread(gain: float, opts: Sequence[str]) -> str:
    """What a gain in AP is worth; on other images or another schedule that is not known."""
    if any(key.startswith(("DATASETS.", "SOLVER.")) for key in opts[::2]):
        return (
            "From seed to seed an AP differs, by how much with these DATASETS and SOLVER keys is "
            "not known: a few --seed tell."
        )
    is_sure = "more" if gain > SPREAD else "no more"
    return f"From seed to seed an AP differs by some {SPREAD:g}; this gain is {is_sure} than that."


def report(
    runs: Mapping[str, RunFolder], captions: Mapping[str, str], args: argparse.Namespace
) -> str:
    """The closing table, what its numbers are, and what to do next."""
    import torch
    from tabulate import tabulate

    from dre_ssod.runs.history import metric_name

    def score(name: str, model: str, metric: str) -> float:
        return runs[name].history.series[metric_name(model, "", metric)].last

    scores = {name: [score(name, "teacher", metric) for metric in METRICS] for name in runs}
    rows: list[list[Any]] = [
        [captions[name], *(f"{value:.1f}" for value in values)] for name, values in scores.items()
    ]
    without, with_unlabeled = scores["supervised"], scores["semi-supervised"]
    gains = [b - a for a, b in zip(without, with_unlabeled, strict=True)]
    rows.append(["difference", *(f"{gain:+.1f}" for gain in gains)])
    counts = count_images(runs["semi-supervised"])
    students = ", ".join(f"{score(name, 'student', 'AP'):.1f} ({name})" for name in runs)
    table = tabulate(rows, headers=["trained on", *METRICS], disable_numparse=True)
    paragraphs = [
        f"AP, average precision: how well the objects of {counts['test']} test images are found, "
        "which no run has trained on. 0 is nothing, 100 is all of them, exactly. For AP50 a box "
        "must overlap its object by half, for AP75 by three quarters.",
        "Both rows are the same detector and the same labeled images, so the last row is what "
        f"{counts['unlabeled']} images without any label add. {say_spread(gains[0], args.opts)}",
        "The rows are the models that are used, moving averages of the weights. AP of the last "
        f"weights themselves: {students}. Seed {args.seed}, PyTorch {torch.__version__}.",
    ]
    explanation = "\n\n".join(textwrap.fill(text, 100) for text in paragraphs)
    return f"""{table}

{explanation}

What next? Look at some of your images, then make a config for them:
  python tools/demo.py --run {runs["semi-supervised"].path} --input IMAGES --output pictures
  python tools/new_config.py --labeled 'coco://labels.json?images=photos' \\
    --unlabeled folder://more_photos --output mine.yaml"""


def main(args: argparse.Namespace) -> None:
    """Train, evaluate, draw, tabulate."""
    from dre_ssod.inspection.panels import write_picture
    from dre_ssod.report.comparison import draw_comparison
    from dre_ssod.report.examined import examine_run
    from dre_ssod.report.folders import read_folders
    from dre_ssod.report.page import write_page
    from dre_ssod.tables.processes import LocalStarter
    from dre_ssod.tables.schedule import run_all

    folder = args.output / f"seed_{args.seed}"
    runs = {name: folder / name for name in RUNS}
    jobs = make_jobs(runs, args)
    for job in jobs:
        print("$", shlex.join([PROGRAM.name, *job.words]), flush=True)
    begin = time.monotonic()
    # More, for the run that is alone at first, make both slower once they are two.
    threads = max(1, (os.cpu_count() or 1) // len(jobs))
    run_all(jobs, LocalStarter(PROGRAM, threads), len(jobs), stop_at_failure=True)
    folders = read_folders(list(runs.values()))
    by_name = dict(zip(runs, folders, strict=True))
    counts = count_images(by_name["semi-supervised"])
    captions = {
        "supervised": f"{counts['labeled']} labeled images",
        "semi-supervised": f"the same and {counts['unlabeled']} unlabeled",
    }
    examined = [examine_run(run, "teacher") for run in folders]
    shown = {captions[name]: one for name, one in zip(runs, examined, strict=True)}
    picture = folder / "predictions.png"
    write_picture(picture, draw_comparison(shown, DRAWN_IMAGES))
    address = write_page(folder / "report.html", folders, examined)
    print()
    print(report(by_name, captions, args))
    print()
    print(f"Picture, found and missed: {picture}")
    print(f"Took {(time.monotonic() - begin) / 60:.1f} minutes")
    print(f"Report, to open in a browser: {address}")


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
