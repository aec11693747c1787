"""A folder in PASCAL VOC's layout with all the tags that Detectron2's own code needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

SIZE = (120, 160)
"""(height, width) of the images."""
VocObject = tuple[str, Sequence[float], bool]
"""Class name, (xmin, ymin, xmax, ymax) as written in the file, whether it is difficult."""
Detection = tuple[int, float, Sequence[float]]
"""Class index, score, (x1, y1, x2, y2) in continuous pixels."""


def write_voc_folder(
    root: Path, objects: Mapping[str, Sequence[VocObject]], with_size: bool = True
) -> Path:
    """Write blank images and their objects by image id, all in the split "test"."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/test.txt").write_text("\n".join(objects), encoding="utf-8")
    height, width = SIZE
    size = f"<size><width>{width}</width><height>{height}</height></size>" if with_size else ""
    for image_id, entries in objects.items():
        Image.new("RGB", (width, height)).save(root / "JPEGImages" / f"{image_id}.jpg")
        body = "".join(map(_object_xml, entries))
        (root / "Annotations" / f"{image_id}.xml").write_text(
            f"<annotation>{size}{body}</annotation>", encoding="utf-8"
        )
    return root


def _object_xml(entry: VocObject) -> str:
    name, box, difficult = entry
    corners = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<object><name>{escape(name)}</name><pose>Left</pose><truncated>0</truncated>"
        f"<difficult>{int(difficult)}</difficult><bndbox>{corners}</bndbox></object>"
    )


def as_output(detections: Sequence[Detection]) -> dict[str, Any]:
    """What a model gives for one image."""
    instances = Instances(SIZE)
    boxes = torch.tensor([list(box) for _, _, box in detections], dtype=torch.float32)
    instances.pred_boxes = Boxes(boxes.reshape(-1, 4))
    instances.scores = torch.tensor([score for _, score, _ in detections])
    instances.pred_classes = torch.tensor([label for label, _, _ in detections], dtype=torch.int64)
    return {"instances": instances}


def evaluate_with(evaluator: Any, detections: Mapping[str, Sequence[Detection]]) -> dict[str, Any]:
    """Results of an evaluator for detections by image id."""
    evaluator.reset()
    for image_id, found in detections.items():
        evaluator.process([{"image_id": image_id}], [as_output(found)])
    results: dict[str, Any] = evaluator.evaluate()
    return results
