#!/usr/bin/env python
"""Label a folder of images of any size with a trained model, as one COCO file.

    python tools/pseudo_label.py --run output/run --input photos --output labeled

Interrupted? The same command continues where it stopped, and tries again what could not be
reached (exit code 1). Started again beside the first, on any machine that shares the folders, it
takes part in the work.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dre_ssod_cli.parsers import add_model_options, count, program_parser, whole, worked_in
from dre_ssod_cli.program import runner

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from dre_ssod.deployment.labeling.label_merge import MergeSummary
    from dre_ssod.deployment.labeling.labeling_job import LabelingJob


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--input", required=True, help="folder of images, or a dataset's URI")
    parser.add_argument(
        "--output", required=True, type=worked_in, metavar="DIR", help="folder to fill"
    )
    parser.add_argument(
        "--min-score", type=float, help="of a box (default: tau of the config's method)"
    )
    parser.add_argument(
        "--batch", type=count, help="images of a forward pass (default: TEST.IMS_PER_BATCH)"
    )
    parser.add_argument(
        "--chunk", type=count, default=1000, help="images that are saved together (default: 1000)"
    )
    parser.add_argument(
        "--label-next", type=whole, default=100, metavar="N", help="images listed (default: 100)"
    )
    parser.add_argument(
        "--label-next-by",
        choices=("quality", "entropy", "both", "views"),
        default="both",
        help="low quality, high entropy, both, or disagreement about the mirror image, which sees "
        "missed objects too and takes twice the time",
    )
    parser.add_argument(
        "--label-next-score",
        type=float,
        default=0.3,
        metavar="S",
        help="lowest score of a box that counts for --label-next (default: 0.3)",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="SET",
        help="list none of its images, of a set that may be labeled in part none of the labeled "
        "ones; may be repeated: labeled and test images",
    )
    parser.add_argument(
        "--tasks",
        choices=("labelstudio", "cvat", "coco", "yolo", "voc"),
        help="write the listed images for this program, or in this form, with the model's boxes to "
        "correct",
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    return parser.parse_args(arguments)


def configure(args: argparse.Namespace) -> tuple[LabelingJob, CfgNode]:
    """The checked job and the config of its model.

    Raises:
        ConfigError: naming the argument or key that cannot be used.
    """
    from dre_ssod.deployment.labeling.labeling_job import LabelingJob
    from dre_ssod.deployment.trained_model import check_score, configure_arguments
    from dre_ssod.errors import ConfigError
    from dre_ssod.methods import method_class
    from dre_ssod.settings import get_key

    cfg, categories = configure_arguments(args)
    if cfg.TEST.RANK_BY_QUALITY and "TEST.RANK_BY_QUALITY" not in args.opts[::2]:
        print("TEST.RANK_BY_QUALITY is off here, as in training: tau and --min-score bound scores.")
        args.opts = [*args.opts, "TEST.RANK_BY_QUALITY", "False"]
        cfg, categories = configure_arguments(args)
    method = method_class(cfg)
    key = method.threshold_keys()[0]
    tau = float(get_key(cfg, key))
    if method.labels_by_rank(cfg) and args.min_score is None:
        print(f"The run chose its labels by rank, not by {key} {tau:g}, which bounds those here.")
    min_score = tau if args.min_score is None else args.min_score
    check_score(cfg, "--min-score", min_score)
    check_score(cfg, "--label-next-score", args.label_next_score)
    if (
        args.label_next_by in ("quality", "both")
        and cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE != "kl"
    ):
        raise ConfigError(
            f"--label-next-by {args.label_next_by} needs a model with a variance branch: use "
            "--label-next-by entropy"
        )
    job = LabelingJob(
        folder=args.output,
        source=args.input,
        categories=categories,
        min_score=min_score,
        uncertain_score=args.label_next_score,
        batch_images=cfg.TEST.IMS_PER_BATCH if args.batch is None else args.batch,
        chunk_images=args.chunk,
        model=args.model,
        views=args.label_next_by == "views",
    )
    return job, cfg


def start(args: argparse.Namespace) -> dict[str, Any]:
    """Write the list of images, or find the one of the job that is there; gives its last merge."""
    from dre_ssod.deployment.labeling.label_merge import last_merge, real_paths
    from dre_ssod.deployment.labeling.label_tasks import check_images
    from dre_ssod.deployment.labeling.labeling_job import prepare
    from dre_ssod.errors import counted

    # A set that is not there shows before the work, not after it.
    real_paths(args.exclude)
    job, cfg = configure(args)
    manifest = prepare(job, cfg)
    if args.tasks:
        check_images(job.folder, args.tasks)
    chunks = counted(len(manifest.offsets), "chunk")
    print(f"{counted(manifest.images, 'image')}, {chunks}", flush=True)
    return last_merge(job.folder)


def work(args: argparse.Namespace, rank: int) -> None:
    """Label what nobody else does; returns once all is labeled."""
    from detectron2.utils.logger import setup_logger

    from dre_ssod.deployment.labeling.bulk_labeling import label_missing
    from dre_ssod.deployment.labeling.labeling_job import open_manifest
    from dre_ssod.deployment.trained_model import device_of

    # torchrun starts processes that know nothing of each other.
    rank = int(os.environ.get("LOCAL_RANK", rank))
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", args.num_gpus))
    setup_logger(name="dre_ssod")
    job, cfg = configure(args)
    device = device_of(cfg, rank)
    if device != cfg.MODEL.DEVICE:
        print(f"process {rank} uses {device}", flush=True)
    cfg.MODEL.DEVICE = device
    total = open_manifest(job.folder).images
    done, begin = 0, time.monotonic()
    for images in label_missing(job, cfg, sharers):
        done += images
        speed = done / (time.monotonic() - begin)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"process {rank}: {done:,} of {total:,} images, {speed:.1f} a second, "
            f"at most {memory:.0f} MiB",
            flush=True,
        )


def finish(args: argparse.Namespace, before: dict[str, Any]) -> int:
    """Merge the chunks, if no other process has since ``before``, and say what came out.

    Returns:
        The exit code: 1 if images could not be reached.
    """
    from dre_ssod.deployment.labeling.label_merge import (
        LABEL_NEXT,
        LABEL_NEXT_NAMES,
        LEFT,
        RESULT,
        SKIPPED,
        merge,
        merge_since,
        note_merge,
        real_paths,
    )
    from dre_ssod.deployment.labeling.label_tasks import (
        corrected_uri,
        how_to_use,
        tasks_path,
        write_tasks,
    )
    from dre_ssod.deployment.labeling.labeling_job import LOCK
    from dre_ssod.errors import counted
    from dre_ssod.locks import taking_turns

    job, cfg = configure(args)
    arguments = {
        name: getattr(args, name) for name in ("label_next", "label_next_by", "exclude", "tasks")
    }
    with taking_turns(job.folder / LOCK):
        summary = merge_since(job.folder, before, arguments)
        if summary is None:
            summary = merge(job, args.label_next, args.label_next_by, real_paths(args.exclude))
            if args.tasks and summary.listed:
                write_tasks(job, args.tasks)
            note_merge(job.folder, arguments, summary)
    found = f"{counted(summary.boxes, 'box')} on {counted(summary.images, 'image')}"
    print(f"{found}: {job.folder / RESULT}")
    if doubt := doubt_of_many(cfg, summary.boxes / max(summary.images, 1), job.min_score):
        print(doubt)
    if summary.skipped:
        print(f"{counted(summary.skipped, 'image')} could not be read: {job.folder / SKIPPED}")
    names = job.folder / LABEL_NEXT_NAMES
    listed = counted(summary.listed, "image")
    print(f"{listed} to label next: {job.folder / LABEL_NEXT}, {names}")
    if args.label_next and not summary.listed:
        print(why_none(args, summary))
    if args.tasks and summary.listed:
        print(f"as tasks with boxes to correct: {tasks_path(job.folder, args.tasks)}")
        if told := how_to_use(job, args.tasks):
            print(told)
        if corrected := corrected_uri(job.folder, args.tasks):
            print(f"corrected there, for tools/merge_labels.py: {corrected}")
    elif args.tasks:
        path = tasks_path(job.folder, args.tasks)
        stale = f"; {path} is of an earlier list" if path.exists() else ""
        print(f"--tasks {args.tasks}: no image is listed, so no tasks were written{stale}")
    if summary.unreached:
        named = ", ".join(summary.first_unreached)
        more = " and others" if summary.unreached > len(summary.first_unreached) else ""
        print(
            f"{counted(summary.unreached, 'image')} could not be reached, so left for another try: "
            f"{named}{more}. {job.folder / LEFT} has the reasons. Put them back and repeat the "
            "command."
        )
        return 1
    return 0


def why_none(args: argparse.Namespace, summary: MergeSummary) -> str:
    """Why no image is listed although some were asked for."""
    if not summary.images:
        return "none is listed: no image could be labeled"
    excluded = f"{summary.excluded:,} of {summary.images:,} are of --exclude"
    if summary.excluded == summary.images:
        return f"none is listed: {excluded}"
    return (
        f"none is listed: {excluded}, and the model is unsure of no other one, by --label-next-by "
        f"{args.label_next_by} from a score of {args.label_next_score:g} on (--label-next-score)"
    )


def doubt_of_many(cfg: CfgNode, boxes_per_image: float, min_score: float) -> str | None:
    """What to say of far more boxes than DATASETS.TRAIN has; None of fewer, or without its data."""
    from dre_ssod.data.records import objects_of
    from dre_ssod.data.sources.catalog import load_one_labeled
    from dre_ssod.errors import SourceError
    from dre_ssod.stores import StoreError

    try:
        records = [record for name in cfg.DATASETS.TRAIN for record in load_one_labeled(name)]
    except (SourceError, StoreError):
        return None
    labeled = sum(len(objects_of(record)) for record in records) / max(len(records), 1)
    allowed = cfg.SSOD.WARN_PSEUDO_BOX_RATIO
    if not (allowed and labeled) or boxes_per_image <= allowed * labeled:
        return None
    return (
        f"Many of them are probably wrong: {boxes_per_image:.1f} per image, where DATASETS.TRAIN "
        f"has {labeled:.1f}. Raise --min-score, which is {min_score:g}, in another --output."
    )


def main(args: argparse.Namespace) -> int:
    """Start, work in one or several processes, finish; gives the exit code."""
    from detectron2.utils.logger import setup_logger

    from dre_ssod.launch.program import launch_apart
    from dre_ssod.runs.detector import find_checkpoint
    from dre_ssod.stores import place_of

    # All processes label with the same file, also while a training writes further ones.
    args.run = str(find_checkpoint(place_of(args.run))) if args.run else ""
    args.num_machines, args.machine_rank, args.dist_url = 1, 0, "auto"
    setup_logger(name="dre_ssod")
    before = start(args)
    launch_apart(work, args)
    return finish(args, before)


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
