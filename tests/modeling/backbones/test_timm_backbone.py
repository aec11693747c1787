"""timm models as backbones: names, shapes, frozen norms, frozen stages."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from dre_ssod.config.keys import get_cfg
from dre_ssod.modeling.backbones.timm_backbone import FrozenBatchNormAct2d, TimmBackbone

SMALL_MODELS = ["resnet18", "mobilenetv3_small_100", "tf_efficientnet_lite0"]


def _config(name: str, builder: str = "build_timm_fpn_backbone") -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg


def _images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def _randomize_norms(model: nn.Module) -> None:
    """Fresh norms are nearly the identity and would hide a lost statistic."""
    generator = torch.Generator().manual_seed(1)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (norm.bias, norm.running_mean):
                tensor.data.uniform_(-0.5, 0.5, generator=generator)


def _norm_input(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if "num_batches" not in key}


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_maps_have_the_announced_channels_and_strides(name: str) -> None:
    backbone = build_backbone(_config(name, "build_timm_backbone"))
    shapes = backbone.output_shape()
    assert {key: shape.stride for key, shape in shapes.items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }
    with torch.no_grad():
        for key, feature in backbone(_images()).items():
            stride = shapes[key].stride
            assert feature.shape == (2, shapes[key].channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_fpn_has_detectron2s_levels(name: str) -> None:
    fpn = build_backbone(_config(name))
    assert fpn.size_divisibility == 32
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    assert fpn.output_shape() == {
        key: ShapeSpec(channels=16, stride=stride) for key, stride in strides.items()
    }
    with torch.no_grad():
        features = fpn(_images(64, 128))
    assert {key: tuple(value.shape) for key, value in features.items()} == {
        key: (2, 16, 64 // stride, 128 // stride) for key, stride in strides.items()
    }


def test_fpn_follows_its_config_keys() -> None:
    cfg = _config("resnet18")
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.NORM = "GN"
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.FPN.FUSE_TYPE = "avg"
    fpn = build_backbone(cfg)
    assert list(fpn.output_shape()) == ["p3", "p4", "p5", "p6"]
    assert isinstance(fpn.fpn_output5.norm, nn.GroupNorm)
    assert fpn._fuse_type == "avg"


def test_model_with_channels_in_the_last_dimension_gives_channels_first() -> None:
    # Swin is the one family here whose maps come as (N, H, W, C); it has no stride-2 stem level.
    backbone = TimmBackbone(name="swin_tiny_patch4_window7_224", out_indices=(0, 1))
    with torch.no_grad():
        features = backbone(_images(224, 224)[:1])
    assert features["res2"].shape == (1, 96, 56, 56)
    assert features["res3"].shape == (1, 192, 28, 28)


@pytest.mark.parametrize("name", [*SMALL_MODELS, "regnety_002", "densenet121"])
def test_frozen_norms_compute_what_eval_mode_does(name: str) -> None:
    plain = TimmBackbone(name=name, norm="BN")
    _randomize_norms(plain)
    frozen = TimmBackbone(name=name, norm="FrozenBN")
    frozen.load_state_dict(_norm_input(plain))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    plain.eval()
    frozen.train()
    images = _images()
    with torch.no_grad():
        expected = plain(images)
        for key, feature in frozen(images).items():
            assert torch.equal(feature, expected[key])
    # With a gradient, Detectron2's frozen norm takes another path.
    for key, feature in frozen(images).items():
        scale = expected[key].abs().max().item()
        torch.testing.assert_close(feature, expected[key], rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_norms_are_detectron2s_to_the_last_bit(dtype: torch.dtype) -> None:
    mine = FrozenBatchNormAct2d(4, 1e-3, nn.Identity(), nn.ReLU())
    for buffer in mine.buffers():
        buffer.uniform_(0.5, 2.0)
    theirs = FrozenBatchNorm2d(4, 1e-3)
    theirs.load_state_dict(mine.state_dict())
    start = torch.randn(2, 4, 5, 6).to(dtype)
    found = []
    for layer in (mine, nn.Sequential(theirs, nn.ReLU())):
        x = start.clone().requires_grad_()
        result = layer(x)
        (result * result).sum().backward()
        found.append((result, x.grad))
    assert all(map(torch.equal, *found))
    assert torch.equal(mine(start), theirs(start).relu())


def test_detectron2s_conversion_would_lose_the_activation() -> None:
    # Why the project has its own: should this ever fail, FrozenBatchNormAct2d can go.
    layer = timm.layers.BatchNormAct2d(3).eval()
    converted = FrozenBatchNorm2d.convert_frozen_batchnorm(layer)
    images = _images()
    assert layer(images).min() >= 0
    assert converted(images).min() < 0


def test_conversion_copies_the_statistics() -> None:
    backbone = TimmBackbone(name="resnet18", norm="BN", freeze_at=1)
    reference = timm.create_model("resnet18", features_only=True)
    assert isinstance(backbone.body.bn1, FrozenBatchNorm2d)
    assert isinstance(backbone.body.layer1[0].bn1, nn.BatchNorm2d)
    assert torch.equal(backbone.body.bn1.weight, reference.bn1.weight)
    assert backbone.body.bn1.eps == reference.bn1.eps


def test_trained_norms_learn_and_frozen_norms_do_not() -> None:
    for norm, changes in (("BN", True), ("FrozenBN", False)):
        backbone = TimmBackbone(name="resnet18", norm=norm).train()
        before = backbone.body.bn1.running_mean.clone()
        sum(feature.mean() for feature in backbone(_images()).values()).backward()
        assert torch.equal(before, backbone.body.bn1.running_mean) is not changes
        assert any("bn1" in name for name, _ in backbone.named_parameters()) is changes


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
        (
            "tf_efficientnet_lite0",
            [
                ["conv_stem", "bn1", "blocks.0"],
                ["blocks.1"],
                ["blocks.2"],
                ["blocks.3", "blocks.4"],
                ["blocks.5", "blocks.6"],
            ],
        ),
    ],
)
@pytest.mark.parametrize("freeze_at", [0, 1, 4])
def test_freeze_at_counts_stages_from_the_stem(
    name: str, stages: list[list[str]], freeze_at: int, norm: str
) -> None:
    backbone = TimmBackbone(name=name, freeze_at=freeze_at, norm=norm)
    frozen = tuple(f"{module}." for stage in stages[:freeze_at] for module in stage)
    for key, parameter in backbone.body.named_parameters():
        assert parameter.requires_grad is not key.startswith(frozen)
    for key, module in backbone.body.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert norm == "BN"
            assert not f"{key}.".startswith(frozen)


def test_frozen_stages_take_no_part_in_the_backward_pass() -> None:
    backbone = TimmBackbone(name="tf_efficientnet_lite0", freeze_at=3).train()
    features = backbone(_images())
    # Levels 0 to 2 are frozen: res2 and res3 have no graph at all.
    assert [feature.requires_grad for feature in features.values()] == [False, False, True, True]
    sum(feature.sum() for feature in features.values()).backward()
    for parameter in backbone.parameters():
        assert (parameter.grad is not None) is parameter.requires_grad


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_every_parameter_gets_a_gradient_when_late_maps_are_left_out(name: str) -> None:
    backbone = TimmBackbone(name=name, out_indices=(1, 2, 3))
    whole = TimmBackbone(name=name)
    backbone.load_state_dict(
        {key: value for key, value in whole.state_dict().items() if key in backbone.state_dict()}
    )
    features, expected = backbone(_images()), whole(_images())
    assert list(features) == ["res2", "res3", "res4"]
    for key, feature in features.items():
        torch.testing.assert_close(feature, expected[key])
    sum(feature.sum() for feature in features.values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_channels_last_changes_no_value() -> None:
    fpn = build_backbone(_config("tf_efficientnet_lite0")).eval().double()
    images = _images().double()
    with torch.no_grad():
        expected = fpn(images)
        fpn.to(memory_format=torch.channels_last)
        features = fpn(images.to(memory_format=torch.channels_last))
    assert features["p2"].is_contiguous(memory_format=torch.channels_last)
    for key, feature in features.items():
        torch.testing.assert_close(feature, expected[key], rtol=1e-9, atol=1e-9)


def test_depthwise_layers_alone_stay_in_float32_under_autocast_on_a_cpu() -> None:
    backbone = TimmBackbone(name="tf_efficientnet_lite0")
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def note(layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        seen[layer.groups > 1].add(output.dtype)

    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(_images())
    assert seen == {True: {torch.float32}, False: {torch.bfloat16}}
    sum(feature.float().sum() for feature in features.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100"])
def test_depthwise_layers_change_no_value_and_no_name(name: str) -> None:
    backbone = TimmBackbone(name=name, norm="BN").eval()
    plain = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    plain.load_state_dict(backbone.body.state_dict(), strict=False)
    for feature, expected in zip(backbone(_images()).values(), plain(_images()), strict=True):
        assert torch.equal(feature, expected)
    # A copy, such as the teacher, computes with its own weights.
    twin = copy.deepcopy(backbone)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert not any(feature.any() for feature in twin(_images()).values())
    assert all(feature.any() for feature in backbone(_images()).values())


def test_frozen_stages_do_no_backward_work() -> None:
    timm_cfg = _config("resnet18", "build_timm_backbone")
    timm_cfg.MODEL.TIMM.FREEZE_AT = 2
    resnet_cfg = get_cfg()
    resnet_cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    resnet_cfg.MODEL.RESNETS.DEPTH = 18
    resnet_cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    resnet_cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    for cfg in (timm_cfg, resnet_cfg):
        backbone = build_backbone(cfg)
        in_graph: dict[bool, set[bool]] = {True: set(), False: set()}

        def note(
            layer: nn.Module, _: object, output: Tensor, found: dict[bool, set[bool]] = in_graph
        ) -> None:
            found[any(p.requires_grad for p in layer.parameters())].add(output.requires_grad)

        for layer in backbone.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(note)
        backbone(_images())
        # What is not in the graph, a backward pass never visits.
        assert in_graph == {True: {True}, False: {False}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, r"NAME 'resnet81'.*resnet18"),
        ({"name": "convmixer_768_32"}, r"convmixer_768_32 has none"),
        ({"name": "resnet18", "norm": "GN"}, r"NORM is 'GN'; valid: FrozenBN, BN"),
        # resnet18's level 0 has stride 2.
        (
            {"name": "resnet18", "out_indices": (0, 1)},
            r"OUT_INDICES is \(0, 1\).*1 \(stride 4\), 2",
        ),
        ({"name": "resnet18", "out_indices": (3, 5)}, r"OUT_INDICES is \(3, 5\).*4 \(stride 32\)"),
        ({"name": "resnet18", "out_indices": (2, 1)}, r"rising order"),
        ({"name": "resnet18", "out_indices": ()}, r"OUT_INDICES is \(\)"),
        ({"name": "resnet18", "freeze_at": 6}, r"FREEZE_AT is 6; valid: 0 to 5"),
        ({"name": "resnet18", "freeze_at": -1}, r"FREEZE_AT is -1; valid: 0 to 5"),
    ],
)
def test_errors_name_the_key_and_the_valid_values(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**arguments)


@pytest.mark.parametrize("names", [[], ["res2", "res3", "res4"], ["res2", "res5"], ["p5"]])
def test_fpn_refuses_maps_that_it_cannot_join(names: list[str]) -> None:
    cfg = _config("resnet18")
    cfg.MODEL.FPN.IN_FEATURES = names
    with pytest.raises(ValueError, match=r"MODEL\.FPN\.IN_FEATURES"):
        build_backbone(cfg)
