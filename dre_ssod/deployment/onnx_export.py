"""A teacher as an ONNX file, which runs without PyTorch and without this project.

It takes ``image`` (3, H, W), float32 and resized as at test time, and gives :data:`OUTPUTS` in the
pixels of that image. How to prepare an image, and the names of the classes, are in the file itself,
as JSON under :data:`METADATA_KEY` of its metadata.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter
from torch import Tensor, nn

from dre_ssod.deployment.export import (
    ExportError,
    about_input,
    detect_traceably,
    detections_to_trace,
)
from dre_ssod.files import open_whole

OPSET = 17
"""Version of the operators: the first with all that is needed is 16."""
METADATA_KEY = "dre_ssod"
OUTPUTS = {
    "pred_boxes": "boxes",
    "scores": "scores",
    "pred_classes": "classes",
    "pred_boxes_sigma": "sigma",
    "localization_quality": "quality",
}
"""Names in the file of the fields of detections; those without a place here are left out."""


@dataclass(frozen=True)
class OnnxModel:
    """An exported model, run by onnxruntime on the CPU.

    Attributes:
        content: of the file.
        session: of onnxruntime.
    """

    content: bytes
    session: Any

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        """Detections of an image (3, H, W), by the name of the field, on its device."""
        names = [output.name for output in self.session.get_outputs()]
        values = self.session.run(names, {"image": image.cpu().numpy()})
        found = dict(zip(names, values, strict=True))
        return {
            field: torch.from_numpy(found[name]).to(image.device)
            for field, name in OUTPUTS.items()
            if name in found
        }

    def save(self, path: Path) -> None:
        """Write the file."""
        with open_whole(path) as file:
            file.write(self.content)


def export_onnx(model: nn.Module, image: Tensor, cfg: CfgNode, class_names: list[str]) -> OnnxModel:
    """Export a model, which is left in the mode it was in.

    Args:
        model: of ``cfg``, in eval mode.
        image: (3, H, W) float32 on the model's device, one that has detections.
        class_names: in the order of the model's outputs.

    Raises:
        ExportError: if the packages are missing, or the model detects nothing on the image.
    """
    try:
        import onnx  # Extras: nothing else here needs them.
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ExportError(
            f"the package {error.name} is not installed: pip install onnx onnxruntime, or choose "
            "another --format"
        ) from error
    found = detections_to_trace(model, image)
    fields = [field for field in OUTPUTS if found.has(field)]

    def fields_of(traced: nn.Module, inputs: list[dict[str, Tensor]]) -> list[Tensor]:
        (instances,) = detect_traceably(traced, inputs)
        values = [instances.get(field) for field in fields]
        return [getattr(value, "tensor", value) for value in values]

    # In eval mode itself: torch.onnx.export puts the modules below it into its own mode.
    adapter = TracingAdapter(model, [{"image": image}], fields_of).eval()
    with torch.no_grad(), warnings.catch_warnings(), TemporaryDirectory() as folder:
        # Many are of what a trace may freeze; the comparison with the eager model decides that.
        warnings.simplefilter("ignore")
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            adapter,
            adapter.flattened_inputs,
            file,
            input_names=["image"],
            output_names=[OUTPUTS[field] for field in fields],
            dynamic_axes={
                "image": {1: "height", 2: "width"},
                **{OUTPUTS[field]: {0: "detections"} for field in fields},
            },
            opset_version=OPSET,
            # The newer way cannot yet trace sizes that depend on what is found.
            dynamo=False,
        )
        proto = onnx.load(file)
    about = {"input": about_input(cfg), "classes": class_names}
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(about)})
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return OnnxModel(content, session)
