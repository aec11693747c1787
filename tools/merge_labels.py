#!/usr/bin/env python
"""Join labels that were corrected in a labeling program with the old ones, as one COCO file.

    python tools/merge_labels.py --old 'coco://labels.json?images=photos' \\
        --corrected 'labelstudio://export.json?images=photos' \\
        --suggested 'coco://labeled/pseudo_labels.json?images=photos' --output round_2.json

Images are known by their files. --suggested are the model's boxes that were corrected: what became
of them says how good the model really is.
"""

from __future__ import annotations

import argparse
import json
import sys

from dre_ssod_cli.parsers import output, program_parser
from dre_ssod_cli.program import runner


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    parser.add_argument(
        "--old",
        nargs="+",
        action="extend",
        metavar="SET",
        default=[],
        help="labels that there are, by name or URI",
    )
    parser.add_argument(
        "--corrected",
        nargs="+",
        action="extend",
        metavar="SET",
        required=True,
        help="labels that came back",
    )
    parser.add_argument(
        "--suggested", metavar="SET", help="the model's boxes that were corrected, to be compared"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="where old and corrected labels of an image differ, take the corrected ones",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=output,
        metavar="FILE",
        help="a new file; a path or an address, as s3://BUCKET/NAME",
    )
    return parser.parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    """Join, write, say what changed."""
    from dre_ssod.data.conversion.coco_content import coco_uri, content_of
    from dre_ssod.data.records import objects_of
    from dre_ssod.deployment.labeling.corrected_labels import compare, join
    from dre_ssod.errors import counted
    from dre_ssod.files import write_text
    from dre_ssod.stores import delivered_file

    with delivered_file(args.output) as (path, place):
        joined = join(args.old, args.corrected, args.replace)
        changes = compare(args.suggested, args.corrected) if args.suggested else None
        merged = content_of(joined.records, joined.categories, joined.image_ids)
        write_text(path, json.dumps(merged.content) + "\n")
    boxes = sum(len(objects_of(record)) for record in joined.records)
    uri = coco_uri(place, merged.image_root)
    counts = f"{counted(len(joined.records), 'image')} with {counted(boxes, 'box')}"
    print(f"{counts}, {joined.corrected} of them new or changed:\n  {uri}")
    if joined.ids_lost:
        print(f"Image ids are new, from 1 on: {joined.ids_lost}.")
    if joined.shapes_lost:
        print(
            f"Masks or key points of {counted(joined.shapes_lost, 'object')} are left out: their "
            "labels were replaced, their boxes were there already, or their set is no COCO file."
        )
    if changes is not None:
        seen = counted(changes.images, "corrected image")
        print(
            f"On {seen} the model's boxes: {changes.kept} kept, "
            f"{changes.moved} moved, {changes.renamed} given another class, {changes.removed} "
            f"removed; {changes.added} added. Precision {changes.precision:.2f}, recall "
            f"{changes.recall:.2f} at IoU 0.5."
        )
    print("To train on from the model that there is, on all of them:")
    print(
        f"  python train_net.py --config-file RUN/config.yaml DATASETS.TRAIN \"('{uri}',)\" "
        "DATASETS.LABELED_PERCENT 100.0 DATASETS.SPLIT_FILE '' MODEL.WEIGHTS RUN/model_final.pth "
        "SSOD.BURN_IN_ITERS 0 OUTPUT_DIR NEXT"
    )
    print(
        "Where RUN drew its labeled images from a larger DATASETS.TRAIN (LABELED_PERCENT, "
        "SPLIT_FILE), the images that it left without labels come from there: add "
        "DATASETS.UNLABELED \"('SET',)\" with that set, and those that DATASETS.UNLABELED has."
    )


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
