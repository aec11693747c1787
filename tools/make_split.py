#!/usr/bin/env python
"""Split a labeled dataset into labeled, unlabeled and, if wanted, test images: COCO JSON files.

    python tools/make_split.py 'voc://BCCD?split=train' --percent 10 --fold 0 --output splits/bccd
    python tools/make_split.py coco://all.json?images=photos --val 40 --labeled 15 --output splits/a
    python tools/make_split.py 'voc://BCCD?split=train' --per-class 5 --output splits/bccd_5
    python tools/make_split.py coco_2017_train --ids ids.json --output splits/ids
    python tools/make_split.py coco_2017_train --unbiased-teacher COCO_supervision.txt \\
        --percent 1 --seed 1 --output splits/coco_1pct_seed1

Writes labeled.json, unlabeled.json (images only) and split.json, which DATASETS.SPLIT_FILE takes;
with --val instead of that val.json, images to measure on. Among them no image is a copy of one that
is trained on, nor of one of the source that nobody has labeled. --val alone leaves all others
labeled, for unlabeled images from elsewhere. A draw by percent and fold is the one that
DATASETS.LABELED_PERCENT and DATASETS.LABELED_FOLD make.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dre_ssod_cli.parsers import output, program_parser
from dre_ssod_cli.program import runner

if TYPE_CHECKING:
    from dre_ssod.data.sources.catalog import NamedRecord
    from dre_ssod.data.splits.split import Split

CHOICES = ("percent", "labeled", "per_class", "ids")
# Of a config that draws itself, as configs/bccd_10pct.yaml does, a part of a part would be left.
NO_FURTHER_DRAW = (
    "DATASETS.LABELED_PERCENT 100.0 DATASETS.LABELED_FOLD 0 MODEL.ROI_HEADS.NUM_CLASSES 0"
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with every option checked against the form of the split."""
    parser = program_parser(__doc__)
    parser.add_argument("source", help="URI or registered name of a labeled dataset")
    parser.add_argument(
        "--output",
        required=True,
        type=output,
        metavar="DIR",
        help="for the files; a path or an address, as s3://BUCKET/NAME",
    )
    parser.add_argument("--percent", type=float, help="share that stays labeled, in (0, 100]")
    parser.add_argument("--labeled", type=int, metavar="N", help="number that stays labeled")
    parser.add_argument(
        "--per-class", type=int, metavar="K", help="labeled objects of each class, at least"
    )
    parser.add_argument("--val", type=int, metavar="N", help="images to measure on")
    parser.add_argument("--fold", type=int, help="number of the draw, from 0 (default: 0)")
    parser.add_argument("--ids", metavar="FILE", help="JSON list of image ids, or a split.json")
    parser.add_argument(
        "--unbiased-teacher", metavar="FILE", help="JSON file {percent: {seed: [index, ...]}}"
    )
    parser.add_argument("--seed", type=int, help="which list of --unbiased-teacher")
    args = parser.parse_args(arguments)
    if args.ids and (args.unbiased_teacher or args.percent is not None):
        parser.error("--ids says which images are labeled: no --percent, no --unbiased-teacher")
    given = [name for name in CHOICES if getattr(args, name) is not None]
    if len(given) > 1:
        parser.error(f"one of --{' and --'.join(given).replace('_', '-')} says what is labeled")
    if not given and args.val is None:
        parser.error(
            "name the images: --percent P, --labeled N, --per-class K, each with [--fold F]; "
            "--ids FILE, --unbiased-teacher, or --val N"
        )
    if args.unbiased_teacher and args.seed is None:
        parser.error("--unbiased-teacher needs --seed")
    if args.unbiased_teacher and args.percent is None:
        parser.error("--unbiased-teacher needs --percent")
    if args.seed is not None and not args.unbiased_teacher:
        parser.error("--seed chooses a list of --unbiased-teacher; a draw is chosen by --fold")
    if args.fold is not None and (args.ids or args.unbiased_teacher):
        parser.error("--fold chooses a draw of --percent, --labeled, --per-class or --val")
    if args.val is not None and (args.ids or args.unbiased_teacher):
        parser.error("--val goes with --percent, --labeled or --per-class: a list names all images")
    if args.fold is not None and args.fold < 0:
        parser.error(f"--fold is {args.fold}; it must be 0 or more")
    return args


def choose(args: argparse.Namespace, records: Sequence[NamedRecord]) -> Split:
    """The split of these images that the command line describes."""
    from dre_ssod.data.sources.catalog import class_names
    from dre_ssod.data.splits.counts import draw_images, draw_per_class
    from dre_ssod.data.splits.files import load_split, load_unbiased_teacher_split
    from dre_ssod.data.splits.split import draw_split

    ids, fold = [name for name, _ in records], args.fold or 0
    if args.unbiased_teacher:
        return load_unbiased_teacher_split(args.unbiased_teacher, args.percent, args.seed, records)
    if args.ids:
        return load_split(args.ids, ids)
    if args.labeled is not None:
        return draw_images(ids, args.labeled, fold)
    if args.per_class is not None:
        return draw_per_class(records, class_names([args.source]), args.per_class, fold)
    return draw_split(ids, 100.0 if args.percent is None else args.percent, fold)


def main(args: argparse.Namespace) -> None:
    """Choose, write, print."""
    from dre_ssod.data.conversion.coco_content import coco_uri, write_split
    from dre_ssod.data.records import objects_of
    from dre_ssod.data.remarks import Remarks
    from dre_ssod.data.sources.catalog import class_names, load_named, load_unlabeled
    from dre_ssod.data.splits.counts import hold_out, objects_by_class
    from dre_ssod.data.splits.pools import without_known
    from dre_ssod.errors import printable
    from dre_ssod.stores import delivered_folder, folder_without

    keys = {"TRAIN": "labeled", "UNLABELED": "unlabeled", "TEST": "val"}
    names = [f"{part}.json" for part in (*keys.values(), "split")]
    with delivered_folder(args.output, folder_without(*names)) as (folder, output):
        records = load_named([args.source])
        # Sources without splits have images that nobody has labeled, and that no record stands for.
        images = load_unlabeled([args.source], Remarks())
        loose = without_known(images, [record for _, record in records])
        files, fold = [record["file_name"] for record in loose], args.fold or 0
        bare = {name for name, record in records if not objects_of(record)}
        held_out = set() if args.val is None else hold_out(records, args.val, fold, files)
        split = choose(args, [entry for entry in records if entry[0] not in held_out])
        image_root = write_split(args.source, records, split, folder, held_out)
        written = {key: part for key, part in keys.items() if (folder / f"{part}.json").exists()}
    unlabeled = split.total - len(split.labeled_ids) + len(loose)
    print(
        f"{len(split.labeled_ids)} labeled, {unlabeled} unlabeled and "
        f"{len(held_out)} test images, SHA-256 of the labeled {split.sha256}"
    )
    parts = {"labeled": set(split.labeled_ids), "test": held_out}
    empty = {name: len(part & bare) for name, part in parts.items() if part & bare}
    if empty:
        shown = " and ".join(f"{n} of {len(parts[name])} {name}" for name, n in empty.items())
        print(
            f"Without boxes: {shown} images. They count as looked at: training leaves the labeled "
            "ones out, and whatever is found on a test image of them is wrong."
        )
        if args.source.startswith("coco://") and "empty=" not in args.source:
            print("If nobody has looked at them, draw with empty=unlabeled in the URI.")
    objects = objects_by_class(records, set(split.labeled_ids), class_names([args.source]))
    shown = ", ".join(f"{name} {count}" for name, count in objects.items())
    print(f"Labeled objects: {printable(shown)}")
    print("Train with it by")
    uris = {
        key: coco_uri(output / f"{part}.json", image_root, args.source)
        for key, part in written.items()
    }
    if loose:
        # All of its images, of which training leaves the labeled and the measured ones out.
        uris["UNLABELED"] = args.source
    words = [f"DATASETS.{key} \"('{uri}',)\"" for key, uri in uris.items()]
    print(f"  {' '.join(words)} {NO_FURTHER_DRAW} DATASETS.SPLIT_FILE ''")
    if "UNLABELED" in uris:
        print(
            "This DATASETS.UNLABELED replaces that of a config, as tools/new_config.py --unlabeled "
            "writes it: name its sets beside this one, or their images are not used; but no set "
            "of the same images, which would count twice."
        )
    if not held_out:
        split_file = shlex.quote(str(output / "split.json"))
        print("or, which leaves the dataset as it is, by")
        # Of DATASETS.UNLABELED, training leaves out what DATASETS.TRAIN has.
        whole = ("TRAIN", "UNLABELED") if loose else ("TRAIN",)
        words = [f"DATASETS.{key} \"('{args.source}',)\"" for key in whole]
        print(f"  {' '.join(words)} {NO_FURTHER_DRAW} DATASETS.SPLIT_FILE {split_file}")


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
