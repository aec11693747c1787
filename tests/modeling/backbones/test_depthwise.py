"""Depthwise layers: values and gradients of their own classes, one map kept instead of two."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from dre_ssod.modeling.backbones.depthwise import improve_depthwise

CHANNELS = 4


def layers(kind: str, **options: object) -> tuple[nn.Module, nn.Module]:
    """A depthwise layer as its class has it, and its improved twin."""
    made = {
        "strided": lambda: Conv2dSame(4, 4, 3, 2, groups=4, **options),
        "strided, 5 x 5": lambda: Conv2dSame(4, 4, 5, 2, groups=4, **options),
        "dilated": lambda: Conv2dSame(4, 4, 3, 2, dilation=2, groups=4, **options),
        "plain": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, **options),
        "widening": lambda: nn.Conv2d(4, 8, (3, 5), (1, 2), (1, 2), groups=4, **options),
    }[kind]()
    twin = nn.Sequential(copy.deepcopy(made))
    improve_depthwise(twin)
    assert type(twin[0]) is not type(made)
    return made, twin[0]


def outcome(layer: nn.Module, start: Tensor, **autocast: object) -> list[Tensor | None]:
    """The result for values that another layer has computed, and all gradients."""
    start = start.clone().requires_grad_()
    with torch.autocast("cpu", **autocast):
        result = layer(start * 1.0)
    (result.float() * torch.linspace(0.5, 2.0, result.numel()).view_as(result)).sum().backward()
    return [result.detach(), start.grad, *(p.grad for p in layer.parameters())]


KINDS = ("strided", "strided, 5 x 5", "dilated", "plain", "widening")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(12, 15), (13, 8)])
def test_values_and_gradients_are_equal(
    kind: str, memory_format: torch.memory_format, size: tuple[int, int]
) -> None:
    start = torch.randn(2, CHANNELS, *size).contiguous(memory_format=memory_format)
    theirs, mine = layers(kind, bias=kind != "plain")
    for found, expected in zip(
        outcome(mine, start, enabled=False), outcome(theirs, start, enabled=False), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_on_a_cpu_changes_nothing_but_the_number_format_of_the_input(kind: str) -> None:
    start = torch.randn(2, CHANNELS, 12, 15).bfloat16()
    theirs, mine = layers(kind)
    expected = outcome(theirs, start.float(), enabled=False)
    result, gradient, *others = outcome(mine, start, dtype=torch.bfloat16)
    assert result.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(result, expected[0])
    assert torch.equal(gradient, expected[1].bfloat16())
    assert all(map(torch.equal, others, expected[2:]))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right(kind: str) -> None:
    _, layer = layers(kind, dtype=torch.float64)
    start = torch.randn(1, CHANNELS, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (start, *layer.parameters()))


def test_what_is_frozen_has_no_gradient() -> None:
    _, layer = layers("strided")
    layer.weight.requires_grad = False
    start = torch.randn(1, CHANNELS, 6, 6)
    result = layer(start)
    result.sum().backward()
    assert layer.weight.grad is None
    assert torch.equal(layer.bias.grad, torch.full((CHANNELS,), 9.0))
    assert not layer.requires_grad_(False)(start).requires_grad


@pytest.mark.parametrize(("kind", "dtype"), [("strided", torch.float32), ("plain", torch.bfloat16)])
def test_the_input_is_kept_as_it_came(kind: str, dtype: torch.dtype) -> None:
    _, layer = layers(kind)
    kept: set[int] = set()
    x = torch.randn(2, CHANNELS, 8, 8, requires_grad=True).to(dtype) * 1.0

    def note(tensor: Tensor) -> Tensor:
        kept.add(tensor.data_ptr())
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        layer(x)
    assert kept == {x.data_ptr(), layer.weight.data_ptr()}


def test_an_input_that_was_changed_is_not_taken_for_the_one_that_came() -> None:
    _, layer = layers("strided")
    x = torch.randn(1, CHANNELS, 6, 6, requires_grad=True) * 1.0
    result = layer(x)
    x.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_number_formats_are_not_mixed_without_autocast() -> None:
    _, layer = layers("strided")
    with pytest.raises(RuntimeError, match=r"should be the same|expected"):
        layer(torch.randn(1, CHANNELS, 6, 6, dtype=torch.float64))


def test_a_traced_layer_pads_each_size_as_it_needs() -> None:
    _, layer = layers("strided")
    with torch.no_grad():
        traced = torch.jit.trace(layer, torch.randn(1, CHANNELS, 9, 9))
        for size in ((9, 9), (8, 11), (12, 10)):
            image = torch.randn(1, CHANNELS, *size)
            assert torch.equal(traced(image), layer(image))


def test_other_layers_are_left_alone() -> None:
    others = (
        *(nn.Conv2d(4, 4, 3), nn.Conv2d(1, 4, 3), Conv2dSame(4, 8, 3, groups=2)),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4),
    )
    improve_depthwise(nn.ModuleList(others))
    assert {type(layer) for layer in others} == {nn.Conv2d, Conv2dSame}
