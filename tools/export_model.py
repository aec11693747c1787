#!/usr/bin/env python
"""Export a trained model, by default the teacher, checked against what it is made from.

    python tools/export_model.py --run output/run --output exported

Writes model.ts (TorchScript) with model.ts.json beside it, and model_weights.pth (weights alone);
--format onnx writes model.onnx. The check runs on images of DATASETS.TEST, or of --images.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dre_ssod_cli.parsers import add_model_options, output, program_parser
from dre_ssod_cli.program import runner

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import Tensor, nn

    from dre_ssod.deployment.export import Exported

TARGETS = {
    "torchscript": "model.ts",
    "onnx": "model.onnx",
    "weights": "model_weights.pth",
    "safetensors": "model.safetensors",
}
"""Formats, and what their files are called."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = program_parser(__doc__)
    add_model_options(parser)
    parser.add_argument(
        "--output",
        required=True,
        type=output,
        metavar="DIR",
        help="folder to fill; a path or an address, as s3://BUCKET/NAME",
    )
    parser.add_argument(
        "--format",
        action="append",
        choices=list(TARGETS),
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
    parsed.format = list(dict.fromkeys(parsed.format or ["torchscript", "weights"]))
    return parsed


def read_images(cfg: CfgNode, source: str, count: int) -> Iterator[Tensor]:
    """The first images of a source, resized as at test time, on the model's device."""
    from dre_ssod.deployment.labeling.label_manifest import full_name, open_images
    from dre_ssod.deployment.trained_model import InferenceReader

    reader = InferenceReader(cfg)
    images = open_images(source)
    for entry in itertools.islice(images.entries, count):
        name = full_name(images.root, entry.file_name)
        yield reader(name)["image"].to(cfg.MODEL.DEVICE)


def export_checked(
    args: argparse.Namespace,
    cfg: CfgNode,
    model: nn.Module,
    class_names: list[str],
    folder: Path,
) -> list[Callable[[], None]]:
    """Trace on the image with the most boxes and compare; gives what writes the files."""
    import torch

    from dre_ssod.deployment.export import eager_detections, save_torchscript, trace
    from dre_ssod.deployment.onnx_export import export_onnx
    from dre_ssod.errors import ConfigError

    source = args.images or next(iter(cfg.DATASETS.TEST), "")
    if not source or args.count < 1:
        raise ConfigError("there is no image to check on: give --images and --count of 1 or more")
    images = list(read_images(cfg, source, args.count))
    with torch.no_grad():
        richest = max(images, key=lambda i: len(eager_detections(model, [{"image": i}])[0]))
    writers: list[Callable[[], None]] = []
    if "torchscript" in args.format:
        traced = trace(model, richest)
        check("TorchScript", traced, model, images, args.tolerance)
        path = folder / TARGETS["torchscript"]
        writers.append(partial(save_torchscript, traced, path, cfg, class_names))
    if "onnx" in args.format:
        exported = export_onnx(model, richest, cfg, class_names)
        check("ONNX", exported, model, images, args.tolerance)
        writers.append(partial(exported.save, folder / TARGETS["onnx"]))
    return writers


def check(
    name: str, exported: Exported, model: nn.Module, images: Sequence[Tensor], tolerance: float
) -> None:
    """Say by how much an exported model differs, and refuse it if that is too much."""
    from dre_ssod.deployment.export import ALONE_ON_A_GPU, ExportError, largest_differences
    from dre_ssod.errors import counted

    max_alone = ALONE_ON_A_GPU if images[0].is_cuda else 0.0
    found = largest_differences(model, exported, images, max_alone)
    worst = found.worst.items()
    shown = ", ".join(f"{field} {value:.2g}" for field, value in worst)
    alone = f" ({found.alone} found by one of the two alone)" if found.alone else ""
    print(
        f"{name} against eager, {counted(found.images, 'image')}, "
        f"{counted(found.detections, 'detection')}{alone}; largest difference: {shown}"
    )
    over = [f"{field} {value:.3g}" for field, value in worst if not value <= tolerance]
    if over:
        raise ExportError(
            f"the {name} model differs by more than --tolerance {tolerance:g}: {', '.join(over)}. "
            "Nothing was written."
        )


def main(args: argparse.Namespace) -> None:
    """Load, export, check."""
    from detectron2.utils.logger import setup_logger

    from dre_ssod.deployment.export import save_safetensors, save_weights
    from dre_ssod.deployment.trained_model import configure_arguments, device_of, load_trained
    from dre_ssod.runs.detector import entry_for_weights
    from dre_ssod.stores import delivered_folder, folder_without

    setup_logger(name="dre_ssod")
    names = [TARGETS[name] for name in args.format]
    with delivered_folder(args.output, folder_without(*names)) as (folder, place):
        cfg, categories = configure_arguments(args)
        class_names = [category["name"] for category in categories]
        cfg.MODEL.DEVICE = device_of(cfg)
        model = load_trained(cfg, args.model)
        folder.mkdir(parents=True, exist_ok=True)
        writers: list[Callable[[], None]] = []
        if {"torchscript", "onnx"} & set(args.format):
            writers = export_checked(args, cfg, model, class_names, folder)
        # The first of those that write, since its package may be missing.
        if "safetensors" in args.format:
            save_safetensors(model, folder / TARGETS["safetensors"])
        if "weights" in args.format:
            run_entry = entry_for_weights(cfg, categories)
            save_weights(model, folder / TARGETS["weights"], run_entry)
        for write in writers:
            write()
    for name in names:
        print(place / name)


run = runner(main, parse_arguments)

if __name__ == "__main__":
    sys.exit(run())
