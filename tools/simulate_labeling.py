#!/usr/bin/env python
"""Try ways of choosing what to label next on images whose labels are known.

    python tools/simulate_labeling.py --run output/fold_0 --run output/fold_1 --by random views \\
        --images 20 --output output/choices SOLVER.MAX_ITER 300

Each way chooses images that a run was trained on without their labels. A simulated labeler draws
what the known labels say of these images and of no others, and the run's model is trained on with
them. Writes the AP before and after, by way, as OUTPUT/choices.md and choices.json.

Interrupted? The same command continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dre_ssod_cli.parsers import add_model_option, count, local, program_parser, worked_in
from dre_ssod_cli.program import runner

if TYPE_CHECKING:
    from dre_ssod.deployment.labeling.simulation import KnownPool
    from dre_ssod.tables.processes import Starter
    from dre_ssod.tables.schedule import Job

ROOT = Path(__file__).resolve().parent.parent
RANDOM, BEFORE = "random", "before"
NEXT = "next"
"""The folder of a training, in that of its way of choosing."""
SETTINGS = "settings.json"
POLL_SECONDS = 0.2


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    parser.add_argument(
        "--run",
        action="append",
        required=True,
        type=local,
        metavar="DIR",
        help="a finished run; repeat it for one per seed or draw",
    )
    parser.add_argument(
        "--output", required=True, type=worked_in, metavar="DIR", help="folder to fill"
    )
    parser.add_argument(
        "--by",
        nargs="+",
        action="extend",
        choices=(RANDOM, "quality", "entropy", "both", "views"),
        help="ways of choosing: by chance, or as --label-next-by of tools/pseudo_label.py; "
        "differences are to the first (default: random views)",
    )
    parser.add_argument(
        "--images", type=count, default=20, metavar="N", help="that are chosen (default: 20)"
    )
    parser.add_argument(
        "--truth",
        metavar="SET",
        help="labels of the unlabeled images, where a run has not drawn them from DATASETS.TRAIN",
    )
    add_model_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the random choice (default: 0)")
    parser.add_argument(
        "--at-once", type=count, default=1, metavar="N", help="trainings at a time (default: 1)"
    )
    parser.add_argument(
        "--threads", type=count, metavar="N", help="of each (default: its share of the cores)"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="config keys and values of the next trainings"
    )
    args = parser.parse_args(arguments)
    if len({folder.resolve().name for folder in args.run}) < len(args.run):
        parser.error("two --run have folders of one name, by which results go: rename one")
    # As a default of the option, those that are given would be added to them.
    args.by = list(dict.fromkeys(args.by or (RANDOM, "views")))
    # The teacher knows enough to label from the first iteration on.
    args.opts = ["SSOD.BURN_IN_ITERS", "0", *args.opts]
    return args


def take_up(args: argparse.Namespace) -> None:
    """Start in a new folder, or continue in one of the same settings.

    Raises:
        ConfigError: if they are others, a run's name stood for another model, the folder holds
            anything else, or a key cannot be used.
    """
    from dre_ssod.config.reading import read_config
    from dre_ssod.data.text_files import read_json
    from dre_ssod.errors import ConfigError
    from dre_ssod.files import write_text

    path = args.output / SETTINGS
    settings = {name: getattr(args, name) for name in ("images", "truth", "model", "seed", "opts")}
    for run in args.run:
        read_config(str(run / "config.yaml"), args.opts)
    is_new = not path.exists()
    if is_new and args.output.exists() and any(args.output.iterdir()):
        raise ConfigError(f"{args.output} is not empty: choose another --output")
    before = settings if is_new else read_json(path)
    changed = [name for name, value in settings.items() if before.get(name) != value]
    if changed:
        raise ConfigError(
            f"{args.output} holds results of other settings: {', '.join(changed)}. Choose another "
            "--output, or repeat the command with which it was started"
        )
    # Results go by the names of the folders; --run may add some.
    runs, known = {run.resolve().name: identity(run) for run in args.run}, before.get("runs", {})
    for name, run in runs.items():
        if name in known and known[name]["sha256"] != run["sha256"]:
            raise ConfigError(
                f"{args.output} holds results of {name!r} from {known[name]['path']}, a model with "
                f"the SHA-256 {known[name]['sha256'][:12]}; --run {run['path']} has another, "
                f"{run['sha256'][:12]}. Choose another --output, or name that run again"
            )
    write_text(path, json.dumps({**before, "runs": {**known, **runs}}, indent=1) + "\n")


def identity(run: Path) -> dict[str, str]:
    """Where a run is, and the SHA-256 of the model that it has."""
    from dre_ssod.deployment.labeling.labeling_job import weights_sha256
    from dre_ssod.runs.detector import find_checkpoint

    return {"path": str(run.resolve()), "sha256": weights_sha256(str(find_checkpoint(run)))}


def choose(
    known: KnownPool, run: Path, by: str, pool: str, folder: Path, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of the images to label next, and what the model suggested there, as words for
    ``tools/merge_labels.py``.

    Args:
        pool: URI of the images to choose from.

    Raises:
        ConfigError: if the model is unsure of too few images.
    """
    from dre_ssod.data.conversion.coco_content import coco_uri, relative_names
    from dre_ssod.errors import ConfigError

    by_chance = known.draw(args.images, f"{args.seed} {run.resolve().name}")
    if by == RANDOM:
        return by_chance, []
    output = folder / "labeling"
    words = ["--run", str(run), "--model", args.model, "--input", pool, "--output", str(output)]
    words += ["--label-next", str(args.images), "--label-next-by", by, *args.opts]
    run_command("tools/pseudo_label.py", words, folder, args)
    names = (output / "label_next.txt").read_text(encoding="utf-8").splitlines()
    if len(names) < args.images:
        raise ConfigError(
            f"{run} is unsure of {len(names)} images, by {by}: lower --images {args.images}, so "
            "that all ways choose as many"
        )
    root, _ = relative_names([record["file_name"] for record in known.pool])
    return known.find(names), ["--suggested", coco_uri(output / "pseudo_labels.json", root)]


def label(
    known: KnownPool, run: Path, by: str, pool: str, folder: Path, args: argparse.Namespace
) -> tuple[str, int]:
    """Choose, have it labeled, join; returns the URI of all labels, and how many boxes are new."""
    from dre_ssod.data.conversion.coco_content import coco_uri, relative_names
    from dre_ssod.deployment.labeling.simulation import write_set

    chosen, suggested = choose(known, run, by, pool, folder, args)
    labels = folder / "labels.json"
    if not labels.exists():
        old = write_set(folder / "old.json", known.labeled, known.categories)
        corrected = write_set(folder / "corrected.json", chosen, known.pool_categories)
        words = ["--old", old, "--corrected", corrected, *suggested, "--output", str(labels)]
        run_command("tools/merge_labels.py", words, folder, args)
    root, _ = relative_names([record["file_name"] for record in known.labeled + chosen])
    return coco_uri(labels, root), sum(len(record["annotations"]) for record in chosen)


def run_command(name: str, words: list[str], folder: Path, args: argparse.Namespace) -> None:
    """Run a program of the project in a process of its own.

    Raises:
        RunFailedError: if it fails.
    """
    from dre_ssod.tables.processes import CONSOLE
    from dre_ssod.tables.schedule import RunFailedError, last_words

    folder.mkdir(parents=True, exist_ok=True)
    started = starter(name, args)(words, folder)
    try:
        while (code := started.exit_code()) is None:
            time.sleep(POLL_SECONDS)
    finally:
        started.stop()
    if code:
        raise RunFailedError(f"{name} failed, see {folder / CONSOLE}: {last_words(folder)}")


def starter(name: str, args: argparse.Namespace) -> Starter:
    """Starts a program of the project on this machine."""
    from dre_ssod.tables.processes import LocalStarter

    threads = args.threads or max(1, (os.cpu_count() or 1) // args.at_once)
    return LocalStarter(ROOT / name, threads)


def jobs_of(run: Path, args: argparse.Namespace) -> tuple[list[Job], dict[str, int]]:
    """Evaluation of a run's own model and a training for each way, as far as they are missing; and
    how many boxes are new, by way."""
    from dre_ssod.config.reading import read_config
    from dre_ssod.deployment.labeling.simulation import known_pool, write_set
    from dre_ssod.runs.detector import find_checkpoint
    from dre_ssod.tables.schedule import Job

    name = run.resolve().name
    folder = args.output / name
    cfg = read_config(str(run / "config.yaml"), args.opts)
    known = known_pool(cfg, args.truth)
    images = [{**record, "annotations": []} for record in known.pool]
    pool = write_set(folder / "pool.json", images, known.categories)
    # Labeled images leave these by themselves.
    unlabeled = (pool, *cfg.DATASETS.UNLABELED) if known.drawn else tuple(cfg.DATASETS.UNLABELED)
    config = ["--config-file", str(run / "config.yaml")]
    model = ["MODEL.WEIGHTS", str(find_checkpoint(run)), "SSOD.EVAL_MODEL", args.model, *args.opts]
    words = [*config, "--eval-only", *model, "OUTPUT_DIR", str(folder / BEFORE)]
    jobs, boxes = [Job(f"{name} {BEFORE}", folder / BEFORE, words, 0, 0)], {}
    for by in args.by:
        labels, boxes[by] = label(known, run, by, pool, folder / by, args)
        print(f"{name}, {by}: {args.images} images with {boxes[by]} boxes", flush=True)
        output = folder / by / NEXT
        data = ["DATASETS.TRAIN", f"('{labels}',)", "DATASETS.UNLABELED", repr(unlabeled)]
        data += ["DATASETS.LABELED_PERCENT", "100.0", "DATASETS.SPLIT_FILE", ""]
        words = [*config, "--resume", *model, *data, "OUTPUT_DIR", str(output)]
        solver = cfg.SOLVER
        jobs.append(Job(f"{name} {by}", output, words, solver.MAX_ITER, solver.IMS_PER_BATCH))
    return [job for job in jobs if not (job.folder / "results.json").is_file()], boxes


def average_precision(folder: Path, model: str) -> tuple[float, str]:
    """AP in percent of the first test set, by the newest evaluation in a run's folder; and the
    name of that set, "" where there is no other."""
    from dre_ssod.tables.filed import first_of_several

    newest = json.loads((folder / "results.json").read_text(encoding="utf-8"))["evaluations"][-1]
    sets = newest["models"][model]
    protocols = next(iter(sets.values()))
    return float(protocols["bbox"]["metrics"]["AP"]), first_of_several(sets)


def report(args: argparse.Namespace, boxes: dict[str, dict[str, int]]) -> str:
    """AP by way and run as Markdown; writes ``choices.json``.

    Args:
        boxes: how many are new, by run and way.
    """
    from tabulate import tabulate

    from dre_ssod.errors import printable
    from dre_ssod.files import write_text
    from dre_ssod.tables.markdown import difference_text, mean_text
    from dre_ssod.tables.report import of_first_sets
    from dre_ssod.tables.statistics import paired_difference, summarize

    measured = {
        way: {name: average_precision(args.output / name / folder, args.model) for name in boxes}
        for way, folder in [(BEFORE, BEFORE), *((by, f"{by}/{NEXT}") for by in args.by)]
    }
    found = {way: {run: ap for run, (ap, _) in own.items()} for way, own in measured.items()}
    of = of_first_sets(name for own in measured.values() for _, name in own.values())
    content = json.dumps({"ap": found, "boxes": boxes}, indent=1)
    write_text(args.output / "choices.json", content + "\n")
    first = args.by[0]
    rows = []
    for way, values in found.items():
        new = "-" if way == BEFORE else mean_text(summarize([b[way] for b in boxes.values()]))
        difference = None if way == first else paired_difference(values, found[first])
        figures = [f"{value:.1f}" for value in values.values()]
        mean = mean_text(summarize([*values.values()]))
        rows.append([way, new, *figures, mean, difference_text(difference)])
    header = ["chosen", "new boxes", *map(printable, boxes), "mean", f"against {first}"]
    table = tabulate(rows, header, tablefmt="pipe", disable_numparse=True)
    return (
        f"AP in percent of the {args.model}{of}, before and after {args.images} more images were "
        f"labeled. Mean ± standard deviation; in brackets the 95 % interval of Student's t.\n\n"
        f"{table}\n"
    )


def main(args: argparse.Namespace) -> None:
    """Choose, label, train on, report."""
    from dre_ssod.files import write_text
    from dre_ssod.tables.schedule import run_all

    take_up(args)
    jobs, boxes = [], {}
    for run in args.run:
        missing, boxes[run.resolve().name] = jobs_of(run, args)
        jobs += missing
    run_all(jobs, starter("train_net.py", args), args.at_once, stop_at_failure=True)
    text = report(args, boxes)
    write_text(args.output / "choices.md", text)
    print(text)


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
