#!/usr/bin/env python
"""Train on the built-in sample set, without and with unlabeled images, and show what they gain.

    python tools/quickstart.py [--seed 1] [--output output/demo] [KEY VALUE ...]

Both runs see the same labeled images equally often. An interrupted demo continues where it stopped;
a finished one evaluates and reports again.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from dre_ssod.config.reading import read_config
from dre_ssod.data.images import read_image
from dre_ssod.data.sources.catalog import class_names, load_one_labeled
from dre_ssod.deployment.demo import Detector
from dre_ssod.deployment.trained_model import find_categories, load_trained
from dre_ssod.errors import UserError
from dre_ssod.inspection.drawing import draw_ground_truth
from dre_ssod.inspection.layout import side_by_side, stack
from dre_ssod.inspection.panels import write_picture
from dre_ssod.launch.program import run_program
from dre_ssod.workers import after_parent

ROOT = Path(__file__).resolve().parent.parent
RUNS = {
    "supervised": ROOT / "configs/baselines/quickstart_supervised.yaml",
    "semi-supervised": ROOT / "configs/quickstart.yaml",
}
PROGRAM = "train_net.py"
CONSOLE = "console.txt"
METRICS = ("AP", "AP50", "AP75")
DRAWN_IMAGES = 6
SCORE_TO_DRAW = 0.6
POLL_SECONDS = 0.2
PROGRESS_SECONDS = 20
PROGRESS_WIDTH = 100


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of both runs (default: 1)")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder of runs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values, both runs")
    return parser.parse_args(arguments)


def start(config: Path, output: Path, seed: int, opts: list[str]) -> BaseProcess:
    """Start ``train_net.py`` on its half of the cores, printing to a file."""
    words = ["--config-file", str(config), "--resume", "SEED", str(seed)]
    words += ["OUTPUT_DIR", str(output), *opts]
    print("$", shlex.join([PROGRAM, *words]), flush=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / CONSOLE).touch()
    # Read by the libraries that the new process loads; this one has loaded them.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // len(RUNS)))
    process = get_context("spawn").Process(target=train, args=(words, output / CONSOLE))
    process.start()
    return process


def train(words: list[str], console: Path) -> None:
    """The process of one run. It stops, and saves, when the demo ends in whatever way."""
    with console.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)

    after_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    sys.argv = [PROGRAM, *words]
    sys.exit(runpy.run_path(str(ROOT / PROGRAM))["run"](words))


def wait(processes: Mapping[str, BaseProcess], runs: Mapping[str, Path]) -> dict[str, float]:
    """Wait for all runs, showing how far they are; returns the seconds that each took.

    However it ends, all runs have ended.

    Raises:
        UserError: if a run fails, with its last words.
    """
    begin = shown = time.monotonic()
    seconds: dict[str, float] = {}
    try:
        while len(seconds) < len(processes):
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            for name, process in processes.items():
                if process.exitcode is not None and name not in seconds:
                    seconds[name] = now - begin
                    if process.exitcode != 0:
                        console = runs[name] / CONSOLE
                        words = " ".join(console.read_text(errors="replace").splitlines()[-5:])
                        raise UserError(f"the {name} run failed, see {console}: {words}")
            if now - shown >= PROGRESS_SECONDS:
                shown = now
                for name in processes.keys() - seconds.keys():
                    print(f"{name:>16}: {progress(runs[name])}", flush=True)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()
    return seconds


def progress(run: Path) -> str:
    """The newest line with an ETA that a run has printed, without its date."""
    lines = (run / CONSOLE).read_text(errors="replace").splitlines()
    newest = next((line for line in reversed(lines) if "eta:" in line), "eta: starting")
    return newest[newest.find("eta:") :][:PROGRESS_WIDTH]


def last_evaluation(run: Path) -> dict[str, Any]:
    """The newest line of ``metrics.json`` that holds an evaluation."""
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    return next(line for line in reversed(lines) if "teacher/bbox/AP" in line)


def run_config(run: Path) -> CfgNode:
    """The config that a run has used, with its last model."""
    return read_config(str(run / "config.yaml"), ["MODEL.WEIGHTS", str(run / "model_final.pth")])


def draw(configs: Mapping[str, CfgNode], path: Path) -> None:
    """Draw ground truth and both detectors side by side on the most crowded images."""
    dataset = next(iter(configs.values())).DATASETS.TEST[0]
    records = sorted(load_one_labeled(dataset), key=lambda r: -len(r["annotations"]))
    names = class_names([dataset])
    detectors = {
        name: Detector(cfg, load_trained(cfg), find_categories(cfg, names), SCORE_TO_DRAW)
        for name, cfg in configs.items()
    }
    rows = []
    for record in records[:DRAWN_IMAGES]:
        image = read_image(record["file_name"], "RGB")
        panels = [("ground truth", draw_ground_truth(image, record["annotations"], names))]
        panels += [(n, d.draw(image, d.detect(image))) for n, d in detectors.items()]
        rows.append(side_by_side(panels))
    write_picture(path, stack(rows))


def images_of(run: Path) -> str:
    """What a run has learned from and was measured on, in words."""
    sets = json.loads((run / "run.json").read_text())["runs"][-1]["datasets"]
    counts = dict.fromkeys(("labeled", "unlabeled", "test"), 0)
    for row in sets:
        counts[row["role"]] += row["images"]
    return ", ".join(f"{count} {role} images" for role, count in counts.items())


def main(args: argparse.Namespace) -> None:
    """Train, evaluate, draw, tabulate."""
    folder = args.output / f"seed_{args.seed}"
    runs = {name: folder / name for name in RUNS}
    processes = {
        name: start(config, runs[name], args.seed, args.opts) for name, config in RUNS.items()
    }
    seconds = wait(processes, runs)
    picture = folder / "predictions.png"
    draw({name: run_config(run) for name, run in runs.items()}, picture)

    rows = []
    for name, run in runs.items():
        evaluation = last_evaluation(run)
        for model in ("student", "teacher"):
            scores = [evaluation[f"{model}/bbox/{metric}"] for metric in METRICS]
            rows.append([name, model, *scores, seconds[name] / 60])
    print()
    print(f"{images_of(runs['semi-supervised'])}, seed {args.seed}, {torch.__version__}")
    print(tabulate(rows, headers=["training", "model", *METRICS, "minutes"], floatfmt=".1f"))
    print("The student is the trained network, the teacher the moving average of its weights.")
    print(f"Predictions: {picture}")


def run(arguments: list[str] | None = None) -> int:
    """Run the tool with command-line arguments; returns its exit code."""
    return run_program(main, parse_arguments(arguments))


if __name__ == "__main__":
    sys.exit(run())
