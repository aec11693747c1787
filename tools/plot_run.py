#!/usr/bin/env python
"""One picture and one table of one or several runs.

    python tools/plot_run.py output/run output/other --output comparison
    python tools/plot_run.py output/run output/other --output comparison --found 3

Writes comparison/runs.png and comparison/runs.md, and prints the table; below it stands what keeps
the runs from being compared, such as different test data, as far as run.json tells. --found also
draws, in comparison/found.jpg, what the teachers of the last checkpoints find and miss, on the test
images where the last run finds most objects more than the first, and counts them over all images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dre_ssod_cli.parsers import local, output, program_parser
from dre_ssod_cli.program import runner


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=local, metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "--output",
        type=output,
        default=Path("."),
        metavar="DIR",
        help="a path or an address, as s3://BUCKET/NAME (default: here)",
    )
    parser.add_argument("--found", type=int, default=0, metavar="N", help="draw N test images too")
    parsed = parser.parse_args(arguments)
    if parsed.found < 0:
        parser.error(f"--found is {parsed.found}; it is a number of images")
    return parsed


def main(args: argparse.Namespace) -> None:
    """Read, draw, tabulate."""
    from tabulate import tabulate

    from dre_ssod.errors import printable
    from dre_ssod.files import open_whole, write_text
    from dre_ssod.inspection.panels import write_picture
    from dre_ssod.inspection.run_plots import draw_runs
    from dre_ssod.report.comparison import draw_comparison
    from dre_ssod.report.examined import examine_run
    from dre_ssod.report.folders import notices_of, read_folders
    from dre_ssod.runs.history import comparison, read_runs
    from dre_ssod.stores import any_folder, delivered_folder

    with delivered_folder(args.output, any_folder) as (folder, place):
        runs = read_runs(args.runs)
        folder.mkdir(parents=True, exist_ok=True)
        with open_whole(folder / "runs.png") as picture:
            draw_runs(runs).savefig(picture, format="png", dpi=110)
        header, rows = comparison(runs)
        table = tabulate(rows, headers=header, tablefmt="github", floatfmt=".2f", missingval="")
        said = [f"Notice: {printable(notice)}" for notice in notices_of(runs, args.runs)]
        text = "\n\n".join([table, *said])
        write_text(folder / "runs.md", text + "\n")
        print(text)
        if args.found:
            examined = {
                run.name: examine_run(run, "teacher", with_sigma=False)
                for run in read_folders(args.runs)
            }
            write_picture(folder / "found.jpg", draw_comparison(examined, args.found))
            for one in examined.values():
                for notice in one.notices:
                    print(f"Notice: {printable(notice)}")
    print(f"{place / 'runs.png'}, {place / 'runs.md'}")
    if args.found:
        print(place / "found.jpg")


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
