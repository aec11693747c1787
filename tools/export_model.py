#!/usr/bin/env python
"""Export a trained model, by default the teacher, checked against what it is made from.

    python tools/export_model.py --run output/run --output exported

Writes model.ts (TorchScript) with model.ts.json beside it, and model_weights.pth (weights alone).
The check runs on images of DATASETS.TEST, or of --images.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dre_ssod_cli.parsers import add_model_options, program_parser
from dre_ssod_cli.program import run_program

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import Tensor, nn

FORMATS = ("torchscript", "weights", "safetensors")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to fill")
    parser.add_argument(
        "--format",
        action="append",
        choices=FORMATS,
        help="may be repeated (default: torchscript and weights)",
    )
    parser.add_argument("--images", default="", help="folder or dataset to check on")
    parser.add_argument("--count", type=int, default=50, help="images of the check (default: 50)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="largest difference allowed, in pixels and in scores (default: 0.001)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    parsed = parser.parse_args(arguments)
    parsed.format = parsed.format or ["torchscript", "weights"]
    return parsed


def read_images(cfg: CfgNode, source: str, count: int) -> Iterator[Tensor]:
    """The first images of a source, resized as at test time, on the model's device."""
    from dre_ssod.deployment.label_manifest import open_images
    from dre_ssod.deployment.trained_model import InferenceReader

    reader = InferenceReader(cfg)
    images = open_images(source)
    for entry in itertools.islice(images.entries, count):
        name = str(Path(images.root) / entry.file_name)
        yield reader(name)["image"].to(cfg.MODEL.DEVICE)


def export_torchscript(
    args: argparse.Namespace, cfg: CfgNode, model: nn.Module, class_names: list[str]
) -> None:
    """Trace on the image with the most boxes, compare, and write what does not differ."""
    import torch

    from dre_ssod.deployment.export import (
        ExportError,
        eager_detections,
        largest_differences,
        save_torchscript,
        trace,
    )
    from dre_ssod.errors import ConfigError

    source = args.images or next(iter(cfg.DATASETS.TEST), "")
    if not source or args.count < 1:
        raise ConfigError("there is no image to check on: give --images and --count of 1 or more")
    images = list(read_images(cfg, source, args.count))
    with torch.no_grad():
        richest = max(images, key=lambda i: len(eager_detections(model, [{"image": i}])[0]))
    traced = trace(model, richest)
    worst, detections, count = largest_differences(model, traced, images)
    shown = ", ".join(f"{name} {value:.2g}" for name, value in worst.items())
    print(
        f"TorchScript against eager, {count} images of {source}, {detections} detections; largest "
        f"difference: {shown}"
    )
    over = {name: value for name, value in worst.items() if not value <= args.tolerance}
    if over:
        raise ExportError(
            f"the traced model differs by more than --tolerance {args.tolerance:g}: "
            f"{', '.join(f'{name} {value:.3g}' for name, value in over.items())}. Nothing was "
            "written."
        )
    save_torchscript(traced, args.output / "model.ts", cfg, class_names)
    print(args.output / "model.ts")


def main(args: argparse.Namespace) -> None:
    """Load, export, check."""
    from detectron2.utils.logger import setup_logger

    from dre_ssod.deployment.export import save_safetensors, save_weights
    from dre_ssod.deployment.trained_model import configure_arguments, device_of, load_trained
    from dre_ssod.errors import ConfigError
    from dre_ssod.runs.detector import entry_for_weights

    setup_logger(name="dre_ssod")
    cfg, categories = configure_arguments(args)
    class_names = [category["name"] for category in categories]
    cfg.MODEL.DEVICE = device_of(cfg)
    targets = {
        "torchscript": "model.ts",
        "weights": "model_weights.pth",
        "safetensors": "model.safetensors",
    }
    for path in (args.output / targets[name] for name in args.format):
        if path.exists():
            raise ConfigError(f"{path} exists: choose another --output")
    model = load_trained(cfg, args.model)
    args.output.mkdir(parents=True, exist_ok=True)
    if "torchscript" in args.format:
        export_torchscript(args, cfg, model, class_names)
    if "weights" in args.format:
        run_entry = entry_for_weights(cfg, categories)
        save_weights(model, args.output / targets["weights"], run_entry)
        print(args.output / targets["weights"])
    if "safetensors" in args.format:
        save_safetensors(model, args.output / targets["safetensors"])
        print(args.output / targets["safetensors"])


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the tool with command-line arguments; returns its exit code."""
    return run_program(main, parse_arguments(arguments))


if __name__ == "__main__":
    sys.exit(run())
