"""The ONNX file does what the model does, on other sizes too, and says itself how it is used."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from dre_ssod.deployment.detector import Detector
from dre_ssod.deployment.export import ExportError, largest_differences
from dre_ssod.deployment.onnx_export import METADATA_KEY, OPSET, OnnxModel, export_onnx
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from tests import ROOT
from tests.factories import BOXES, SIZE, draw, tiny_cfg, tiny_model

CFG = tiny_cfg(
    **{
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.3,
        "TEST.VARIANCE_VOTING.ENABLED": True,
        "MODEL.CHANNELS_LAST": True,
    }
)
NAMES = ["disk", "ring", "bar"]
IMAGE = draw(SIZE, BOXES, seed=0).float()


@pytest.fixture(scope="module")
def model() -> SemiSupervisedRCNN:
    return tiny_model(CFG, spread=0.5).eval()


@pytest.fixture(scope="module")
def exported(model: SemiSupervisedRCNN) -> OnnxModel:
    found = export_onnx(model, IMAGE, CFG, NAMES)
    # PyTorch's exporter would leave it in training mode.
    assert not any(module.training for module in model.modules())
    return found


def test_it_equals_the_eager_model_on_other_sizes(
    model: SemiSupervisedRCNN, exported: OnnxModel
) -> None:
    sizes = [SIZE, (64, 64), (90, 71), (48, 96)]
    images = [draw(size, BOXES, seed=n).float() for n, size in enumerate(sizes)]
    images += [torch.full((3, 64, 64), 40.0)]
    worst, detections, count, alone = largest_differences(model, exported, images)
    assert (count, alone) == (5, 0)
    assert detections > 20
    assert worst.keys() == {"boxes", "scores", "sigma", "quality"}
    assert max(worst.values()) < 1e-3
    with torch.no_grad():
        model.roi_heads.box_predictor.log_variance.bias += 0.1
        worst, *_ = largest_differences(model, exported, images[:1])
        model.roi_heads.box_predictor.log_variance.bias -= 0.1
    assert worst["sigma"] > 0.01


def test_the_file_is_valid_and_says_how_to_use_it(exported: OnnxModel, tmp_path: Path) -> None:
    exported.save(tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(proto)
    assert proto.opset_import[0].version == OPSET
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert about["classes"] == NAMES
    assert about["input"]["short_side"] == 64
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert shapes["boxes"][-1] == shapes["sigma"][-1] == 4
    assert shapes.keys() == {"boxes", "scores", "classes", "sigma", "quality"}
    [image] = session.get_inputs()
    assert (image.name, image.shape) == ("image", [3, "height", "width"])


@pytest.fixture
def example(
    exported: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """The example of the documents, run beside the exported file on a photo of test size."""
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    [code] = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "onnxruntime" in b]
    assert set(re.findall(r"^import (\w+)", code, re.MULTILINE)) == {
        *("json", "cv2", "numpy", "onnxruntime"),
    }
    (tmp_path / "exported").mkdir()
    exported.save(tmp_path / "exported" / "model.onnx")
    pixels = IMAGE.permute(1, 2, 0).byte().contiguous().numpy()
    cv2.imwrite(str(tmp_path / "photo.jpg"), pixels)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_the_example_finds_what_the_detector_finds(
    example: dict[str, Any], model: SemiSupervisedRCNN, tmp_path: Path
) -> None:
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    expected = Detector(CFG, model, categories)(cv2.imread(str(tmp_path / "photo.jpg")), 0.3)
    assert len(expected) > 5
    assert np.allclose(example["boxes"], expected.boxes, atol=1e-3)
    assert [NAMES[number] for number in example["classes"]] == [*expected.class_names]


@pytest.mark.parametrize("size", [(40, 25), (90, 130)])
def test_the_example_resizes_as_pillow_does(example: dict[str, Any], size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    rows, columns = (example["bilinear"](*pair) for pair in zip(pixels.shape, size, strict=False))
    found = np.tensordot(rows, (columns @ pixels).round(), 1).round()
    assert np.abs(found - np.asarray(expected, np.float64)).max() <= 1


def test_what_cannot_be_exported_is_told(
    model: SemiSupervisedRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = tiny_model(tiny_cfg(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1.0})).eval()
    with pytest.raises(ExportError, match="detects nothing on the image"):
        export_onnx(strict, IMAGE, CFG, NAMES)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match="pip install onnx onnxruntime"):
        export_onnx(model, IMAGE, CFG, NAMES)
