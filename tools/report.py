#!/usr/bin/env python
"""One HTML page about one or several runs, to look at, keep and hand on.

    python tools/report.py output/run output/other --output report.html

Data, settings, machine and time; curves; AP, precision and recall by class; confusion; the images
with the worst mistakes, truth beside detections; pseudo-labels; whether sigma is right. The last
model of each run goes once over its test sets. The page needs no network and no other file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dre_ssod_cli.parsers import add_model_option, local, output, program_parser
from dre_ssod_cli.program import runner

IMAGES = 24
OF_THE_MODEL = ("images", "min_score", "model", "opts")
"""Options of the detections, which --no-model leaves out."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=local, metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "--output",
        type=output,
        default=Path("report.html"),
        metavar="FILE",
        help="a path or an address, as s3://BUCKET/NAME (default: report.html, here)",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help=f"how many images are shown at most (default: {IMAGES})",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="lowest score of detections whose mistakes are told (default: where F1 is highest)",
    )
    parser.add_argument(
        "--no-model",
        action="store_true",
        help="only what the run folders hold, as of runs that still train: no detections",
    )
    add_model_option(parser)
    # To tell what is given.
    parser.set_defaults(model=None)
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys and values for the detections of all runs, such as MODEL.DEVICE cpu",
    )
    parsed = parser.parse_args(arguments)
    given = [name for name in OF_THE_MODEL if getattr(parsed, name) not in (None, [])]
    if parsed.no_model and given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        parser.error(f"--no-model makes no detections: it does not go with {named}")
    parsed.images = IMAGES if parsed.images is None else parsed.images
    parsed.model = parsed.model or "teacher"
    if parsed.images < 0:
        parser.error(f"--images is {parsed.images}; it must be 0 or more")
    if parsed.min_score is not None and not 0 <= parsed.min_score <= 1:
        parser.error(f"--min-score is {parsed.min_score}; it must be between 0 and 1")
    return parsed


def main(args: argparse.Namespace) -> None:
    """Write the page, say where it is."""
    from dre_ssod.report.page import write_report
    from dre_ssod.stores import any_file, delivered_file

    model = None if args.no_model else args.model
    with delivered_file(args.output, any_file) as (path, place):
        shown = write_report(args.runs, path, model, args.opts, args.min_score, args.images)
    print(shown if path == place else place)


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
