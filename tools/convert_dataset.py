#!/usr/bin/env python
"""Write a labeled dataset as COCO, YOLO or PASCAL VOC, or for Label Studio or CVAT.

    python tools/convert_dataset.py 'voc://BCCD?split=train' --val 'voc://BCCD?split=val' \\
        --to yolo --output bccd_yolo

The source and --val, --test become the parts train, val and test of the new dataset.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from dre_ssod_cli.parsers import output, program_parser
from dre_ssod_cli.program import runner


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    parser.add_argument("source", help="URI or registered name of a labeled dataset")
    parser.add_argument("--val", metavar="SOURCE", help="the same, for validation")
    parser.add_argument("--test", metavar="SOURCE", help="the same, for testing")
    parser.add_argument(
        "--to",
        required=True,
        choices=("coco", "yolo", "voc", "labelstudio", "cvat"),
        help="form of the new dataset",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=output,
        metavar="DIR",
        help="for the new dataset: empty, or not there; a path or an address, as s3://BUCKET/NAME",
    )
    parser.add_argument(
        "--images",
        choices=("copy", "link", "reference"),
        default="copy",
        help="copy them (default), link to them, or reference them where they are (coco only)",
    )
    args = parser.parse_args(arguments)
    if isinstance(args.output, str) and args.images == "link":
        parser.error("--images link: a store has no links; choose copy")
    return args


def main(args: argparse.Namespace) -> None:
    """Convert and print."""
    from dre_ssod.data.conversion.convert import convert
    from dre_ssod.data.conversion.programs import how_to_show
    from dre_ssod.errors import counted
    from dre_ssod.stores import delivered_folder

    named = {"train": args.source, "val": args.val, "test": args.test}
    sources = {split: source for split, source in named.items() if source is not None}
    with delivered_folder(args.output) as (folder, place):
        parts = convert(sources, args.to, folder, args.images, place)
    for part in parts:
        counts = f"{counted(part.images, 'image')} with {counted(part.boxes, 'box')}"
        print(f"{part.split}: {counts}, to be read as")
        # A shell would take the & of some for itself.
        print(f"  {shlex.quote(part.uri)}")
        for what, count in part.lost.items():
            print(f"  {count} {what}")
    if args.to == "labelstudio":
        print(how_to_show(place / "images"))


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
