#!/usr/bin/env python
"""Split a labeled dataset into a labeled and an unlabeled COCO JSON file.

    python tools/make_split.py 'voc://BCCD?split=train' --percent 10 --fold 0 --output splits/bccd
    python tools/make_split.py coco_2017_train --ids ids.json --output splits/ids
    python tools/make_split.py coco_2017_train --unbiased-teacher COCO_supervision.txt \\
        --percent 1 --seed 1 --output splits/coco_1pct_seed1

Writes labeled.json, unlabeled.json (images only) and split.json, which DATASETS.SPLIT_FILE takes.
A draw by percent and fold is the one that DATASETS.LABELED_PERCENT and DATASETS.LABELED_FOLD make.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dre_ssod.data.conversion.coco_content import coco_uri, write_split
from dre_ssod.data.sources.catalog import NamedRecord, load_named
from dre_ssod.data.splits.files import load_split, load_unbiased_teacher_split
from dre_ssod.data.splits.split import Split, draw_split
from dre_ssod.launch.program import run_program


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with every option checked against the form of the split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="URI or registered name of a labeled dataset")
    parser.add_argument("--output", required=True, metavar="DIR", help="for the three files")
    parser.add_argument("--percent", type=float, help="share that stays labeled, in (0, 100]")
    parser.add_argument("--fold", type=int, help="number of the draw, from 0 (default: 0)")
    parser.add_argument("--ids", metavar="FILE", help="JSON list of image ids, or a split.json")
    parser.add_argument(
        "--unbiased-teacher", metavar="FILE", help="JSON file {percent: {seed: [index, ...]}}"
    )
    parser.add_argument("--seed", type=int, help="which list of --unbiased-teacher")
    args = parser.parse_args(arguments)
    if args.ids and (args.unbiased_teacher or args.percent is not None):
        parser.error("--ids says which images are labeled: no --percent, no --unbiased-teacher")
    if not args.ids and args.percent is None:
        parser.error("name the images: --percent P [--fold F], --ids FILE, or --unbiased-teacher")
    if args.unbiased_teacher and args.seed is None:
        parser.error("--unbiased-teacher needs --seed")
    if args.seed is not None and not args.unbiased_teacher:
        parser.error("--seed chooses a list of --unbiased-teacher; a draw is chosen by --fold")
    if args.fold is not None and (args.ids or args.unbiased_teacher):
        parser.error("--fold chooses a draw of --percent alone")
    return args


def choose(args: argparse.Namespace, records: Sequence[NamedRecord]) -> Split:
    """The split that the command line describes."""
    if args.unbiased_teacher:
        return load_unbiased_teacher_split(args.unbiased_teacher, args.percent, args.seed, records)
    ids = [name for name, _ in records]
    return load_split(args.ids, ids) if args.ids else draw_split(ids, args.percent, args.fold or 0)


def main(args: argparse.Namespace) -> None:
    """Choose, write, print."""
    output = Path(args.output)
    records = load_named([args.source])
    split = choose(args, records)
    image_root = write_split(args.source, records, split, output)
    count = len(split.labeled_ids)
    labeled, unlabeled = (
        coco_uri(output / f"{part}.json", image_root) for part in ("labeled", "unlabeled")
    )
    split_file = shlex.quote(str(output / "split.json"))
    print(f"{count} labeled and {split.total - count} unlabeled images, SHA-256 {split.sha256}")
    print("Train with it by")
    print(f"  DATASETS.TRAIN \"('{labeled}',)\" DATASETS.UNLABELED \"('{unlabeled}',)\"")
    print("or, which leaves the dataset as it is, by")
    print(f"  DATASETS.TRAIN \"('{args.source}',)\" DATASETS.SPLIT_FILE {split_file}")


def run(arguments: list[str] | None = None) -> int:
    """Run the tool with command-line arguments; returns its exit code."""
    return run_program(main, parse_arguments(arguments))


if __name__ == "__main__":
    sys.exit(run())
