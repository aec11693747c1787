"""The export does what the model does, on images of other sizes than the one it was traced on."""

from __future__ import annotations

import copy
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor
from torchvision.ops import box_iou

import dre_ssod
from dre_ssod.deployment.export import (
    ExportError,
    Traced,
    eager_detections,
    largest_differences,
    record,
    save_safetensors,
    save_torchscript,
    save_weights,
    trace,
)
from dre_ssod.deployment.trained_model import load_trained
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.runs.detector import entry_for_weights
from tests.deployment.traced_devices import mixed_devices
from tests.factories import BOXES, FEWER_LAYERS, SIZE, draw, tiny_cfg, tiny_model

PACKAGE = Path(dre_ssod.__file__).parent
REFINED = {"TEST.VARIANCE_VOTING.ENABLED": True, "TEST.RANK_BY_QUALITY": True}


def model_with(**overrides: object) -> SemiSupervisedRCNN:
    cfg = tiny_cfg(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.3, **FEWER_LAYERS, **overrides})
    return tiny_model(cfg, spread=0.5).eval()


def images() -> list[Tensor]:
    sizes = [SIZE, (64, 64), (90, 71), (48, 96)]
    return [draw(size, BOXES, seed=n).float() for n, size in enumerate(sizes)]


@functools.cache
def traced_with(*overrides: tuple[str, object]) -> tuple[SemiSupervisedRCNN, Traced]:
    """A model and its trace; tracing takes seconds, so tests share them and change neither."""
    model = model_with(**dict(overrides))
    return model, trace(model, images()[0])


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        REFINED,
        {"MODEL.ROI_BOX_HEAD.BOX_TRANSFORM": "center_size", "MODEL.CHANNELS_LAST": True},
        {
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "smooth_l1",
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
        },
    ],
)
def test_the_traced_model_equals_the_eager_one_on_other_sizes(overrides: dict[str, object]) -> None:
    model, traced = traced_with(*overrides.items())
    worst, detections, count, alone = largest_differences(model, traced, images())
    assert (count, alone) == (4, 0)
    assert detections > 20
    fields = {"boxes", "scores"}
    if "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE" not in overrides:
        fields |= {"sigma", "quality"}
        assert traced.outputs[:3] == ("localization_quality", "pred_boxes", "pred_boxes_sigma")
    assert worst.keys() == fields
    assert max(worst.values()) < 1e-4


@pytest.mark.parametrize(
    "overrides",
    [REFINED, {**REFINED, "MODEL.ROI_BOX_HEAD.BOX_TRANSFORM": "center_size"}],
    ids=["corner", "center_size"],
)
def test_nothing_in_the_trace_is_tied_to_the_device_it_was_made_on(
    overrides: dict[str, object],
) -> None:
    """Detectron2 names "cpu" whatever device it traces on, and moves what it makes there."""
    _, traced = traced_with(*overrides.items())
    graph = traced.module.inlined_graph
    made = [
        node.sourceRange().splitlines()[0]
        for kind in ("arange", "zeros", "ones", "empty", "full", "tensor", "scalar_tensor", "to")
        for node in graph.findAllNodes(f"aten::{kind}")
        if any(i.node().kind() == "prim::Constant" and _is_device(i) for i in node.inputs())
    ]
    assert len(made) > 10
    assert [place for place in made if str(PACKAGE) in place] == []


def test_a_trace_mixes_no_devices_wherever_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its constants go with the weights, while sizes of images stay on the CPU."""
    model = model_with(**REFINED)
    assert mixed_devices(record(model, images()[0]).inlined_graph) == []
    # As Detectron2 pads an image, and with a vote that is kept where it was traced.
    with monkeypatch.context() as planted:
        planted.setattr(SemiSupervisedRCNN, "preprocess_image", GeneralizedRCNN.preprocess_image)
        (found,) = mixed_devices(record(model, images()[0]).inlined_graph)
    assert "aten::add at" in found
    assert "image_list.py" in found
    with monkeypatch.context() as planted:
        planted.setattr(
            "dre_ssod.modeling.refinement.box_iou", lambda a, b: box_iou(a, b).to("cpu")
        )
        found_there = mixed_devices(record(model, images()[0]).inlined_graph)
    assert any("refinement.py" in place for place in found_there)


def _is_device(value: torch.Value) -> bool:
    return str(value.type()) == "Device"


def test_a_model_that_differs_is_told_by_how_much() -> None:
    model, traced = traced_with()
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.roi_heads.box_predictor.log_variance.bias += 0.1
    worst, *_ = largest_differences(model, traced, images()[:1])
    assert worst["boxes"] == worst["scores"] == 0.0
    assert worst["sigma"] > 0.01
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias -= torch.tensor([9.0, 0.0, 0.0, 0.0])
    with pytest.raises(ExportError, match=r"^\d+ of \d+ detections .* are not found by the other"):
        largest_differences(model, traced, images()[:1])


@pytest.mark.parametrize(
    ("field", "name"),
    [("scores", "scores"), ("pred_boxes_sigma", "sigma"), ("localization_quality", "quality")],
)
def test_what_is_not_a_number_is_no_agreement(field: str, name: str) -> None:
    model, traced = traced_with()
    first = iter([True])

    def broken_once(found: dict[str, Tensor]) -> dict[str, Tensor]:
        value = found[field].clone()
        if next(first, False):
            value.flatten()[0] = torch.nan
        return found | {field: value}

    worst, *_ = largest_differences(model, Altered(traced, broken_once), images()[:2])
    assert [known for known, value in worst.items() if not value <= 1e-4] == [name]
    # Boxes of which nothing is known have no counterpart.
    lost = Altered(traced, lambda found: found | {"pred_boxes": found["pred_boxes"] * torch.nan})
    with pytest.raises(ExportError, match="are not found by the other"):
        largest_differences(model, lost, images()[:1])


class Altered:
    """An exported model whose detections are changed before they are compared."""

    def __init__(self, traced: Traced, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]):
        self.traced, self.change = traced, change

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        return self.change(self.traced.detect(image))


def test_detections_are_compared_with_their_own_in_any_order() -> None:
    model, traced = traced_with()
    turned = Altered(traced, lambda found: {name: t.flip(0) for name, t in found.items()})
    worst, detections, count, alone = largest_differences(model, turned, images())
    assert max(worst.values()) < 1e-4
    assert (count, alone) == (len(images()), 0)
    assert detections > 0


def test_detections_that_the_other_has_not_are_counted_both_ways() -> None:
    model, traced = traced_with()
    for change in (
        lambda found: {name: t[1:] if t.dim() else t for name, t in found.items()},
        lambda found: found | {"pred_classes": found["pred_classes"] + 1},
        lambda found: found | {"pred_boxes": found["pred_boxes"] + 3.0},
    ):
        with pytest.raises(ExportError, match="are not found by the other"):
            largest_differences(model, Altered(traced, change), images()[:1])


def test_as_many_as_are_allowed_may_be_alone() -> None:
    model, traced = traced_with()
    (image,) = images()[:1]
    number = len(traced.detect(image)["scores"])
    counts = iter([])

    def short_once(found: dict[str, Tensor]) -> dict[str, Tensor]:
        left_out = next(counts)
        return {name: t[left_out:] if name != "image_size" else t for name, t in found.items()}

    # Of this image 200 times over: one detection is missing once.
    repeats = 1 + 100 // number
    counts = iter([1, *[0] * repeats])
    with pytest.raises(ExportError, match=f"1 of {2 * number * repeats - 1} .* At most 0% may be"):
        largest_differences(model, Altered(traced, short_once), [image] * repeats)
    counts = iter([1, *[0] * repeats])
    found = largest_differences(model, Altered(traced, short_once), [image] * repeats, 0.01)
    assert (found.alone, found.detections) == (1, number * repeats)


def test_an_image_without_detections_cannot_be_traced_on_but_can_be_run() -> None:
    model, traced = traced_with()
    with torch.no_grad():
        blank = next(
            image
            for level in range(0, 256, 5)
            for image in [torch.full((3, 64, 64), float(level))]
            if len(eager_detections(model, [{"image": image}])[0]) < 5
        )
    worst, *_ = largest_differences(model, traced, [blank])
    assert max(worst.values()) < 1e-4
    strict = model_with(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1.0})
    with pytest.raises(ExportError, match="detects nothing on the image that it is traced on"):
        trace(strict, images()[0])


def test_the_file_says_how_to_use_it(tmp_path: Path) -> None:
    model, traced = traced_with()
    save_torchscript(traced, tmp_path / "m.ts", tiny_cfg(), ["a", "b", "c"])
    about = json.loads((tmp_path / "m.ts.json").read_text())
    assert about["input"]["short_side"] == 64
    assert about["classes"] == ["a", "b", "c"]
    found = dict(zip(about["outputs"], torch.jit.load(tmp_path / "m.ts")(images()[1]), strict=True))
    with torch.no_grad():
        (expected,) = eager_detections(model, [{"image": images()[1]}])
    torch.testing.assert_close(found["pred_boxes_sigma"], expected.pred_boxes_sigma)
    assert found["image_size"].tolist() == [64, 64]


def test_weights_alone_load_everywhere(tmp_path: Path) -> None:
    model = model_with()
    keys = tiny_cfg(**FEWER_LAYERS)
    run = entry_for_weights(keys, [{"id": n, "name": n} for n in "abc"])
    save_weights(model, tmp_path / "w.pth", run)
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    assert content.keys() == {"model", "run"}
    assert content["run"] == run
    cfg = tiny_cfg(**{"MODEL.WEIGHTS": str(tmp_path / "w.pth"), **FEWER_LAYERS})
    for loaded in (load_trained(cfg), DefaultPredictor(cfg).model):
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])


def test_safetensors_hold_the_same_and_are_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    model = model_with(**{"MODEL.CHANNELS_LAST": True})
    save_safetensors(model, tmp_path / "w.safetensors")
    loaded = load_file(tmp_path / "w.safetensors")
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(t, loaded[name]) for name, t in model.state_dict().items())
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ExportError, match="pip install safetensors"):
        save_safetensors(model, tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()
