"""Whether a device computes what the CPU computes: losses, gradients and pooled features."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from dre_ssod.benchmark.report import Goal, Row
from dre_ssod.benchmark.step import StepParts
from dre_ssod.gpu_check.findings import Finding, Setting
from dre_ssod.gpu_check.scratch import make_cfg, sample_cfg, tf32_kept

# Every anchor and every proposal is sampled: devices draw random numbers of their own.
SAMPLE_ALL = {
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 10**5,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 10**6,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
}
# By number format: of losses, of gradients, and of pooled features over the largest one.
BOUNDS = {
    "float32": (1e-4, 1e-3, 1e-5),
    "float16": (1e-2, 3e-2, 2e-3),
    "bfloat16": (5e-2, 0.2, 1e-2),
}


def number_formats(setting: Setting) -> dict[str, dict[str, Any]]:
    """Config overrides by the name of a number format that the device has."""
    names = ["bfloat16", "float16"] if setting.on_gpu else ["bfloat16"]
    amp = {n: {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": n} for n in names}
    return {"float32": {}, **amp}


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """While entered, convolutions and matrix products of float32 are computed in float32."""
    with tf32_kept():
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        yield


class Choices:
    """What a CPU chose (proposals, pseudo-labels), so that a device goes on with the same.

    Where two boxes score nearly alike, a rounding decides which one is kept. That is no error, but
    losses of other boxes cannot be compared.
    """

    def __init__(self) -> None:
        self._kept: dict[str, list[Instances]] = {}

    def fix(self, owner: nn.Module, method: str, name: str) -> None:
        """Keep what the first call of a method under ``name`` returns; all others return that."""
        original: Callable[..., list[Instances]] = getattr(owner, method)

        def call(*args: Any, **kwargs: Any) -> list[Instances]:
            if name not in self._kept:
                self._kept[name] = [found.to("cpu") for found in original(*args, **kwargs)]
            device = next(owner.parameters()).device
            return [kept.to(device) for kept in self._kept[name]]

        setattr(owner, method, call)


def losses_and_gradients(setting: Setting) -> Iterator[Finding]:
    """A step's losses and gradients, on the CPU in float32 against the device in each format.

    The same weights, images, proposals and pseudo-labels.
    """
    size = {"SOLVER.IMS_PER_BATCH": 4, **SAMPLE_ALL}
    choices = Choices()
    expected = _pass(_parts(sample_cfg(setting, {**size, "MODEL.DEVICE": "cpu"}), choices), None)
    parts = _parts(sample_cfg(setting, size), choices)
    for name in number_formats(setting):
        dtype = None if name == "float32" else getattr(torch, name)
        with without_tf32():
            found = _pass(parts, dtype)
        yield from _compare(name, found, expected)
    if setting.on_gpu:
        off = gradient_error(_pass(parts, None)[1], expected[1])[0]
        yield Row("float32 with TF32 as PyTorch has it: gradient", off, "")


Pass = tuple[dict[str, Tensor], dict[str, Tensor]]


def _parts(cfg: CfgNode, choices: Choices) -> StepParts:
    parts = StepParts(cfg)
    step = parts.step
    choices.fix(step.teacher.proposal_generator, "predict_proposals", "teacher's proposals")
    choices.fix(step.teacher.roi_heads, "detect", "pseudo-labels")
    choices.fix(step.model.proposal_generator, "predict_proposals", "student's proposals")
    return parts


def _pass(parts: StepParts, autocast: torch.dtype | None) -> Pass:
    """Losses and gradients by name, on the CPU."""
    step = parts.step
    step.settings = replace(step.settings, autocast_dtype=autocast)
    step.optimizer.zero_grad()
    with EventStorage():
        with step._autocast():
            losses = step.compute_losses(parts.batch)
        losses.total(step.weight).backward()
    terms = losses.supervised | losses.unsupervised
    gradients = {n: p.grad for n, p in step.model.named_parameters() if p.grad is not None}
    return (
        {name: value.detach().double().cpu() for name, value in terms.items()},
        {name: value.double().cpu() for name, value in gradients.items()},
    )


def _compare(name: str, found: Pass, expected: Pass) -> Iterator[Finding]:
    loss_bound, gradient_bound, _ = BOUNDS[name]
    for term, value in expected[0].items():
        yield Row(f"{name}: {term}", float(found[0][term]), f"(CPU {float(value):.6g})")
    worst = max(abs(float(found[0][t] / v) - 1.0) for t, v in expected[0].items() if v != 0.0)
    yield Goal(f"{name}: largest relative difference of a loss", worst, loss_bound)
    whole, parameter, largest = gradient_error(found[1], expected[1])
    yield Row(f"{name}: largest of one parameter, {parameter}", largest, "")
    yield Goal(f"{name}: relative difference of the gradient", whole, gradient_bound)


def gradient_error(
    found: dict[str, Tensor], expected: dict[str, Tensor]
) -> tuple[float, str, float]:
    """Distance of all gradients together over the length of the expected ones, and the parameter
    that is furthest off, with its own."""
    if found.keys() != expected.keys():
        return float("nan"), "not the same parameters", float("nan")
    off = {name: float((found[name] - expected[name]).norm()) for name in expected}
    norms = {name: float(value.norm()) for name, value in expected.items()}
    scale = torch.tensor(list(norms.values())).norm().item()
    # A parameter without any gradient to speak of is off by rounding alone.
    each = {name: off[name] / norms[name] for name in expected if norms[name] > 1e-6 * scale}
    worst = max(each, key=lambda name: each[name])
    return torch.tensor(list(off.values())).norm().item() / scale, worst, each[worst]


def pooled_features(setting: Setting) -> Iterator[Finding]:
    """Features of boxes near and far from the origin, pooled under autocast against float32."""
    side, channels = 1344, 8 if setting.small else 64
    cfg = make_cfg(setting, "Base-RCNN-FPN.yaml", {"MODEL.ROI_HEADS.NUM_CLASSES": 1})
    shapes = {f"p{n}": ShapeSpec(channels=channels, stride=2**n) for n in range(2, 7)}
    pooler = build_roi_heads(cfg, shapes).box_pooler.to(setting.device)
    generator = torch.Generator().manual_seed(0)
    # Smooth, as features are: one random value every 8 cells.
    maps = [
        nn.functional.interpolate(
            torch.randn(1, channels, side // 2**n // 8, side // 2**n // 8, generator=generator),
            size=(side // 2**n, side // 2**n),
            mode="bilinear",
        ).to(setting.device)
        for n in range(2, 6)
    ]
    corners = 190 * torch.rand(400, 2, generator=generator)
    sides = 24 + 40 * torch.rand(400, 2, generator=generator)
    box = torch.cat([corners, corners + sides], dim=1).to(setting.device)
    pull = torch.randn(400, channels, 7, 7, generator=generator).to(setting.device)

    def pool(dtype: torch.dtype, offset: float) -> tuple[Tensor, Tensor]:
        leaves = [level.to(dtype, copy=True).requires_grad_() for level in maps]
        with torch.autocast(setting.device, dtype, enabled=dtype != torch.float32):
            pooled = pooler(leaves, [Boxes(box + offset)])
        (pooled.float() * pull).sum().backward()
        return pooled.detach().float(), leaves[0].grad.float()  # type: ignore[union-attr]

    for offset in (0.0, 256.0, 512.0, 1024.0):
        expected = pool(torch.float32, offset)
        for name in BOUNDS:
            found = pool(getattr(torch, name), offset)
            for what, one, other in zip(("features", "gradient"), found, expected, strict=True):
                error = float((one - other).abs().max() / other.abs().max())
                yield Goal(
                    f"{name}: {what} from {offset:g} on, over the largest", error, BOUNDS[name][2]
                )
