"""ReLU6 in place: PyTorch's values and gradients, one map kept instead of two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dre_ssod.modeling.backbones.relu6 import FrugalReLU6, keep_one_map_per_relu6
from dre_ssod.modeling.backbones.timm_backbone import TimmBackbone


def frugal() -> nn.Module:
    model = nn.Sequential(nn.ReLU6(inplace=True))
    keep_one_map_per_relu6(model)
    return model[0]


def values(dtype: torch.dtype) -> Tensor:
    """Both bounds, their neighbors, and what is no number."""
    bounds = torch.tensor([0.0, -0.0, 6.0], dtype=dtype)
    near = [(bounds.float() + shift).to(dtype) for shift in (-0.05, 0.05)]
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.0], dtype=dtype)
    return torch.cat([bounds, *near, special, torch.randn(2035).to(dtype) * 5.0])


def outcome(layer: nn.Module, start: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer makes of values that another layer has computed, and their gradient."""
    start = start.clone().requires_grad_()
    result = layer(start * 1.0)
    (result * torch.linspace(0.5, 2.0, start.numel()).to(start.dtype)).sum().backward()
    assert start.grad is not None
    return result.detach(), start.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_pytorchs(dtype: torch.dtype) -> None:
    start = values(dtype)
    for mine, theirs in zip(
        outcome(frugal(), start), outcome(nn.ReLU6(inplace=True), start), strict=True
    ):
        assert torch.equal(mine.isnan(), theirs.isnan())
        assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())


def test_gradients_are_right() -> None:
    layer = frugal()
    inside = torch.tensor([-2.0, 1.0, 5.0, 8.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x * 1.0), (inside,))


def test_only_its_output_is_kept() -> None:
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    start = torch.randn(2, 3, 4, 4, requires_grad=True) + 1.0
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = frugal()(start)
    assert [tensor.data_ptr() for tensor in kept] == [result.data_ptr()] == [start.data_ptr()]


def test_without_a_gradient_nothing_is_recorded() -> None:
    x = torch.tensor([-1.0, 7.0, 2.0])
    result = frugal()(x)
    assert result.data_ptr() == x.data_ptr()
    assert result.tolist() == [0.0, 6.0, 2.0]
    assert result.grad_fn is None


def test_layers_that_keep_their_input_are_left_alone() -> None:
    model = nn.Sequential(nn.ReLU6(inplace=True), nn.ReLU6(), nn.ReLU(inplace=True))
    keep_one_map_per_relu6(model)
    assert [type(layer) for layer in model] == [FrugalReLU6, nn.ReLU6, nn.ReLU]


def test_the_small_backbone_has_no_other() -> None:
    kinds = {type(m) for m in TimmBackbone(name="tf_efficientnet_lite0").modules()}
    assert FrugalReLU6 in kinds
    assert nn.ReLU6 not in kinds
