#!/usr/bin/env python
"""Pack the images of a dataset into tar files, as shards:// and WebDataset read them.

    python tools/pack_images.py folder://photos --output shards
    python tools/pack_images.py 'voc://BCCD?split=train' --labels --output bccd --name train

Writes NAME-000000.tar and so on, each with at most --images images, in the order of the dataset.
With --labels, a JSON file lies beside each image, and the classes are in classes.txt. The same
images give the same bytes.
"""

from __future__ import annotations

import argparse
import re
import sys

from dre_ssod_cli.parsers import count, output, program_parser
from dre_ssod_cli.program import runner


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    parser.add_argument("source", help="URI or registered name of a dataset")
    parser.add_argument(
        "--output",
        required=True,
        type=output,
        metavar="DIR",
        help="for the shards: empty, or not there; a path or an address, such as s3://BUCKET/NAME",
    )
    parser.add_argument("--labels", action="store_true", help="pack the labels as well")
    parser.add_argument(
        "--name", type=_name, default="images", help="what names of shards begin with (images)"
    )
    parser.add_argument(
        "--images",
        type=count,
        default=10_000,
        metavar="N",
        help="in a shard, at most (default: 10000)",
    )
    return parser.parse_args(arguments)


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w-][\w.-]*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits, '-', '_' and '.' are valid")
    return text


def main(args: argparse.Namespace) -> None:
    """Pack and print."""
    from dre_ssod.data.conversion.packing import pack
    from dre_ssod.errors import counted
    from dre_ssod.stores import delivered_folder

    with delivered_folder(args.output) as (folder, place):
        packed = pack(args.source, folder, args.name, args.images, args.labels, place)
    role = "DATASETS.TRAIN" if args.labels else "DATASETS.UNLABELED"
    print(f"{counted(packed.images, 'image')} in {counted(packed.shards, 'shard')}. For a config:")
    print(f"{role} \"('{packed.uri}',)\"")


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
