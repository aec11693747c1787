"""A teacher for deployment: TorchScript by Detectron2's tracing, and files of weights alone.

The traced model takes one image (3, H, W), float32 and resized as at test time, and gives the
tensors of ``Traced.outputs`` in the pixels of that image; whoever calls it resizes before and
rescales after.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from dre_ssod.errors import UserError, counted
from dre_ssod.files import open_whole, write_text

# Modules of this package whose len() of boxes must stay a tensor while a model is traced.
TRACED_MODULES = [
    f"dre_ssod.modeling.{name}" for name in ("box_predictor", "refinement", "roi_heads")
]
COMPARED = {
    "pred_boxes": "boxes",
    "scores": "scores",
    "pred_boxes_sigma": "sigma",
    "localization_quality": "quality",
}
"""Fields of detections, and their names in reports."""
SAME_PLACE = 2.0
"""Pixels by which a coordinate of a detection may be off, and it is still the same one."""
ALONE_ON_A_GPU = 0.01
"""Share of the detections of two models that the other need not have, on a GPU.

Scores that differ by a rounding change places in NMS there, and another box stays.
"""


class ExportError(UserError):
    """A model that cannot be exported, or whose export does not do what the model does."""


@dataclass(frozen=True)
class Traced:
    """A traced model.

    Attributes:
        module: takes (3, H, W) and returns a tuple of tensors.
        outputs: their names in order; the last is the (height, width) of the image.
    """

    module: torch.jit.ScriptModule
    outputs: tuple[str, ...]

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        """Detections of an image, by the name of the field."""
        return dict(zip(self.outputs, self.module(image), strict=True))


def eager_detections(model: nn.Module, inputs: list[dict[str, Tensor]]) -> list[Instances]:
    """Detections of one image in its own pixels, as they are exported."""
    detector: Any = model
    found: list[Instances] = detector.inference(inputs, do_postprocess=False)
    return found


def detect_traceably(model: nn.Module, inputs: list[dict[str, Tensor]]) -> list[Instances]:
    """:func:`eager_detections` while the model is traced: numbers of boxes stay tensors."""
    with patch_builtin_len(TRACED_MODULES):
        return eager_detections(model, inputs)


def detections_to_trace(model: nn.Module, image: Tensor) -> Instances:
    """Detections of the image (3, H, W) that a model is traced on.

    Raises:
        ExportError: if there are none, so that parts of the model would not be traced.
    """
    with torch.no_grad():
        (found,) = eager_detections(model, [{"image": image}])
    if len(found) == 0:
        raise ExportError(
            "the model detects nothing on the image that it is traced on: give --images with "
            "objects, or lower MODEL.ROI_HEADS.SCORE_THRESH_TEST"
        )
    return found


def trace(model: nn.Module, image: Tensor) -> Traced:
    """Trace a model in eval mode on one real image, one that has detections.

    Args:
        image: (3, H, W) float32, on the model's device.

    Raises:
        ExportError: if the model detects nothing on the image.
    """
    found = detections_to_trace(model, image)
    module = record(model, image)
    # What is checked is what will be loaded from a file.
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer, map_location=image.device)
    return Traced(loaded, (*sorted(found.get_fields()), "image_size"))


def record(model: nn.Module, image: Tensor) -> torch.jit.ScriptModule:
    """What the model computes on an image, as it is before it is saved."""
    with torch.no_grad(), warnings.catch_warnings():
        # Many are of what a trace may freeze; the comparison with the eager model decides that.
        warnings.simplefilter("ignore")
        adapter = TracingAdapter(model, [{"image": image}], detect_traceably)
        return torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)


class Exported(Protocol):
    """A model that was exported, and can be run."""

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        """Detections of an image (3, H, W), by the name of the field."""


class Agreement(NamedTuple):
    """How an exported model and the eager one agree.

    Attributes:
        worst: the largest absolute difference of boxes and sigma, in pixels, scores and quality;
            NaN where either has a value that is none.
        detections: of the eager model.
        images: that were compared.
        alone: detections of either that the other has not.
    """

    worst: dict[str, float]
    detections: int
    images: int
    alone: int


def partners(boxes: Tensor, classes: Tensor, others: Tensor, their_classes: Tensor) -> Tensor:
    """(N,) the nearest other detection of the same class; -1 where none is within ``SAME_PLACE``.

    Args:
        boxes, classes: (N, 4) and (N,).
        others, their_classes: (M, 4) and (M,).
    """
    if len(others) == 0:
        return torch.full_like(classes, -1)
    distances = (boxes[:, None] - others).abs().amax(dim=2)
    distances = distances.masked_fill(classes[:, None] != their_classes, torch.inf)
    nearest, which = distances.min(dim=1)
    return torch.where(nearest <= SAME_PLACE, which, -1)


@torch.no_grad()
def largest_differences(
    model: nn.Module, exported: Exported, images: Iterable[Tensor], max_alone: float = 0.0
) -> Agreement:
    """Compare an exported model with the eager one, detection by detection.

    Args:
        images: (3, H, W) each, on the model's device.
        max_alone: share of the detections of both that may have no counterpart.

    Raises:
        ExportError: if more have none.
    """
    worst: dict[str, float] = {}
    detections = total = alone = count = 0
    for image in images:
        count += 1
        (expected,) = eager_detections(model, [{"image": image}])
        found = exported.detect(image)
        mine = expected.pred_boxes.tensor, expected.pred_classes
        theirs = found["pred_boxes"], found["pred_classes"]
        there, back = partners(*mine, *theirs), partners(*theirs, *mine)
        detections += len(there)
        total += len(there) + len(back)
        alone += int((there < 0).sum() + (back < 0).sum())
        for field, name in COMPARED.items():
            if expected.has(field):
                value = expected.get(field)
                value = value.tensor if isinstance(value, Boxes) else value
                difference = (found[field][there[there >= 0]] - value[there >= 0]).abs()
                largest = float(difference.max()) if difference.numel() else 0.0
                # Unlike max(), it keeps NaN.
                worst[name] = float(np.maximum(worst.get(name, 0.0), largest))
    if alone > max_alone * total:
        raise ExportError(
            f"{alone} of {total} detections of the exported model and of the model, on "
            f"{counted(count, 'image')}, are not found by the other: of the class, within "
            f"{SAME_PLACE:g} pixels. At most {max_alone:.0%} may be. The export was not written."
        )
    return Agreement(worst, detections, count, alone)


def about_input(cfg: CfgNode) -> dict[str, Any]:
    """What an exported model must be told to be fed: layout, order of channels, sizes."""
    return {
        "image": "(3, H, W) float32, 0 to 255, not normalized",
        "channels": cfg.INPUT.FORMAT,
        "short_side": cfg.INPUT.MIN_SIZE_TEST,
        "longest_side": cfg.INPUT.MAX_SIZE_TEST,
        "resize": "to the short side, or to the longest where that would be exceeded, by bilinear "
        "interpolation with antialiasing, as Pillow's; another one gives other boxes",
    }


def save_torchscript(traced: Traced, path: Path, cfg: CfgNode, class_names: list[str]) -> None:
    """Write the traced model, and beside it ``path``.json, which says how to feed and read it."""
    with open_whole(path) as file:
        torch.jit.save(traced.module, file)
    content = {
        "load": "import torchvision before torch.jit.load: the model uses its NMS",
        "input": about_input(cfg),
        "outputs": list(traced.outputs),
        "frame": "boxes (x1, y1, x2, y2) and sigma in pixels of the input image",
        "classes": class_names,
    }
    write_text(path.with_name(path.name + ".json"), json.dumps(content, indent=1) + "\n")


def save_weights(model: nn.Module, path: Path, run: dict[str, Any]) -> None:
    """Write a checkpoint of the weights alone, which Detectron2 loads.

    Args:
        run: of :func:`dre_ssod.runs.detector.entry_for_weights`.
    """
    with open_whole(path) as file:
        torch.save({"model": _state(model), "run": run}, file)


def save_safetensors(model: nn.Module, path: Path) -> None:
    """Write the weights as safetensors.

    Raises:
        ExportError: if the package is not installed.
    """
    try:
        from safetensors.torch import save  # An extra: nothing else here needs it.
    except ModuleNotFoundError as error:
        raise ExportError(
            "the package safetensors is not installed: pip install safetensors, or choose another "
            "--format"
        ) from error
    with open_whole(path) as file:
        file.write(save(_state(model)))


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Weights on the CPU, each contiguous in memory of its own."""
    return {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
