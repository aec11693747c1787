#!/usr/bin/env python
"""Draw what a trained detector finds on images or on a video, and how sure it is of each edge.

    python tools/demo.py --run output/run --input photos/*.jpg more/ --output pictures \\
        --json found.json

Labels read "class 0.93 q0.41": foreground score and localization quality score s_loc. The band of
an edge reaches one standard deviation to either side of it, but no further than a tenth of the box;
--no-bands leaves it out. Where there is one class, each object has its own color. Of a checkpoint,
the teacher is used unless --model student says otherwise.

Exit code: 0; 1 if an image could not be read and was skipped; 2 if nothing could be done.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dre_ssod_cli.parsers import add_model_options, output, program_parser
from dre_ssod_cli.program import runner

if TYPE_CHECKING:
    from dre_ssod.deployment.demo import DrawingDetector
    from dre_ssod.stores import Place, Rule, Written

SKIPPED_CODE = 1
Results = list[dict[str, Any]]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The flags of Detectron2's demo, and this project's own."""
    parser = program_parser(__doc__)
    add_model_options(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", action="extend", metavar="IMAGE", help="files, globs or folders"
    )
    source.add_argument("--video-input", metavar="FILE", help="a video file")
    parser.add_argument(
        "--output",
        type=output,
        help="folder, or file for one image or a video; a path or an address, as s3://BUCKET/NAME",
    )
    parser.add_argument(
        "--json",
        type=output,
        metavar="FILE",
        help="detections as COCO results, in which images without any are missing; a path or an "
        "address",
    )
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="lowest score (default: 0.5)"
    )
    parser.add_argument("--no-bands", action="store_true", help="boxes without their uncertainty")
    parser.add_argument(
        "--color-by",
        choices=("class", "object"),
        help="default: class, or object where there is one class only",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files of the output")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values; last"
    )
    parsed = parser.parse_args(arguments)
    if parsed.output is None and parsed.json is None:
        parser.error("nothing to write: give --output, --json or both")
    return parsed


def build_detector(args: argparse.Namespace) -> DrawingDetector:
    """The detector that the command line names."""
    from dre_ssod.deployment.demo import DrawingDetector
    from dre_ssod.deployment.trained_model import configure_arguments, device_of, load_trained

    cfg, categories = configure_arguments(args)
    cfg.MODEL.DEVICE = device_of(cfg)
    color_by = args.color_by or ("class" if len(categories) > 1 else "object")
    model = load_trained(cfg, args.model)
    return DrawingDetector(
        cfg, model, categories, args.confidence_threshold, not args.no_bands, color_by
    )


def delivered(args: argparse.Namespace, rule: Rule) -> AbstractContextManager[Written]:
    """Where to put pictures or a video: what has an extension is a file, else a folder."""
    from dre_ssod.stores import delivered_file, delivered_folder

    return (delivered_file if Path(args.output).suffix else delivered_folder)(args.output, rule)


def run_on_images(args: argparse.Namespace) -> tuple[Results, int]:
    """COCO results of all images, and the number of images that were skipped."""
    from tqdm import tqdm

    from dre_ssod.data.images import ImageError
    from dre_ssod.deployment.demo import (
        find_images,
        names_in_results,
        plan_outputs,
        run_on_image,
    )
    from dre_ssod.errors import counted

    images = find_images(args.input)
    planned: list[Place] = []

    def plan(place: Place) -> None:
        planned[:] = plan_outputs(images, place, args.overwrite)

    pictures: list[Path | None] = [None] * len(images)
    results: Results = []
    skipped = empty = 0
    with ExitStack() as until:
        if args.output is not None:
            written = until.enter_context(delivered(args, plan))
            pictures = [*map(written.path_for, planned)]
        detector = build_detector(args)
        rows = list(zip(images, names_in_results(images), pictures, strict=True))
        for number, (image, name, picture) in enumerate(tqdm(rows, unit="image"), start=1):
            try:
                found = run_on_image(detector, image, number, name, picture)
                results += found
                empty += not found
            except ImageError as error:
                skipped += 1
                tqdm.write(f"skipped: {error}", file=sys.stderr)
    seen = counted(len(images) - skipped, "image")
    without = f"{empty:,} without any, {skipped:,} skipped"
    print(f"{counted(len(results), 'detection')} on {seen}, {without}")
    if args.output is not None:
        print(f"Pictures: {args.output}")
    return results, skipped


def run_on_video(args: argparse.Namespace) -> Results:
    """COCO results of all frames; ``image_id`` counts them from 1."""
    from tqdm import tqdm

    from dre_ssod.deployment.demo import refuse_overwriting
    from dre_ssod.inspection.video import EXTENSION, VideoReader, VideoWriter

    source = Path(args.video_input)

    def plan(place: Place) -> Place:
        is_file = place.suffix.lower() == EXTENSION
        target = place if is_file else place / f"{source.stem}{EXTENSION}"
        refuse_overwriting([target], [source], args.overwrite)
        return target

    results: Results = []
    number = 0
    with ExitStack() as until:
        path = None
        if args.output is not None:
            written = until.enter_context(delivered(args, plan))
            target = plan(written.place)
            path = written.path_for(target)
        video = VideoReader(source)
        detector = build_detector(args)
        writer = until.enter_context(VideoWriter(path, video.fps)) if path else None
        for number, frame in enumerate(
            tqdm(video, total=video.frames or None, unit="frame"), start=1
        ):
            found = detector.detect(frame, f"{source}, frame {number}")
            results += detector.results(found, number, source.name)
            if writer is not None:
                writer.write(detector.draw(frame, found))
    print(f"{len(results)} detections on {number} of {video.frames or 'unknown'} frames")
    if path is not None:
        print(f"Video: {target}")
    return results


def main(args: argparse.Namespace) -> int:
    """Detect, draw, write; returns 1 if an image was skipped."""
    from detectron2.utils.logger import setup_logger

    from dre_ssod.deployment.demo import refuse_overwriting
    from dre_ssod.files import write_text
    from dre_ssod.stores import delivered_file, place_of

    def rule(place: Place) -> None:
        inputs = map(place_of, args.input or [args.video_input])
        refuse_overwriting([place], inputs, args.overwrite)

    setup_logger(name="dre_ssod")
    skipped = 0
    with ExitStack() as until:
        path = args.json and until.enter_context(delivered_file(args.json, rule))[0]
        if args.video_input is not None:
            results = run_on_video(args)
        else:
            results, skipped = run_on_images(args)
        if path:
            write_text(path, json.dumps(results) + "\n")
    if path:
        print(f"Detections: {args.json}")
    return SKIPPED_CODE if skipped else 0


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
