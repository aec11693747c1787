"""timm models as Detectron2 backbones.

Feature maps are named after their stride as in Detectron2's ResNets: a map of stride ``2 ** n`` is
``res{n}``. A level is one entry of timm's ``feature_info``, counted from the stem; level i ends
stage i, so that ``FREEZE_AT = n`` freezes levels 0 to n - 1.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from timm.layers.norm_act import BatchNormAct2d
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from dre_ssod.errors import ConfigError
from dre_ssod.modeling.backbones.depthwise import improve_depthwise
from dre_ssod.modeling.backbones.relu6 import keep_one_map_per_relu6
from dre_ssod.modeling.backbones.weights import LITE0_WEIGHTS, feature_name, load_weights

_STRIDE_TO_NAME = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}
_NORMS = ("FrozenBN", "BN")


class FrozenBatchNormAct2d(FrozenBatchNorm2d):
    """Detectron2's frozen batch norm followed by the activation that timm fuses into its own.

    ``FrozenBatchNorm2d.convert_frozen_batchnorm`` would replace timm's layer by the affine map
    alone, and the network would lose its activations.
    """

    def __init__(self, num_features: int, eps: float, drop: nn.Module, act: nn.Module) -> None:
        super().__init__(num_features, eps)
        self.drop = drop
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        normed = self._scaled_and_shifted(x) if x.requires_grad else super().forward(x)
        return self.act(self.drop(normed))

    def _scaled_and_shifted(self, x: Tensor) -> Tensor:
        """As Detectron2's, to the last bit, with one map less in memory: nobody needs x * scale."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = (value.to(x.dtype).reshape(1, -1, 1, 1) for value in (scale, shift))
        return (x * scale).add_(shift)


class TimmBackbone(Backbone):
    """The feature maps of a timm model, as a Detectron2 backbone."""

    @configurable
    def __init__(
        self,
        *,
        name: str,
        weights: str = "",
        out_indices: Sequence[int] = (1, 2, 3, 4),
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            name: a timm model that supports ``features_only``.
            weights: "" for random ones, ``LITE0_WEIGHTS``, or the path of a timm state dict.
            out_indices: timm's levels to return; their strides are among 4, 8, 16 and 32.
            norm: "FrozenBN" fixes every BatchNorm2d as the weights have it; "BN" trains them.
            freeze_at: number of stages, from the stem, without gradient and with frozen norms.
            in_channels: channels of the input image.

        Raises:
            ConfigError: for an argument that is not valid, and weights that are missing, cannot be
                read or do not fit the model.
        """
        super().__init__()
        if norm not in _NORMS:
            raise ConfigError(f"MODEL.TIMM.NORM is {norm!r}; valid: {', '.join(_NORMS)}")
        levels = _feature_levels(name)
        strides = _checked_strides(name, levels, out_indices)
        body: Any = timm.create_model(
            name,
            features_only=True,
            out_indices=tuple(out_indices),
            pretrained=False,
            in_chans=in_channels,
        )
        _drop_unused_blocks(body, last_module=levels[max(out_indices)][0])
        if weights:
            load_weights(body, name, weights)
        frozen = _stage_modules(body, levels, freeze_at, max(out_indices))
        for module in frozen:
            for parameter in body.get_submodule(module).parameters(recurse=False):
                parameter.requires_grad = False
        everything = [module for module, _ in body.named_modules()]
        _freeze_batch_norms(body, everything if norm == "FrozenBN" else frozen)

        improve_depthwise(body)
        keep_one_map_per_relu6(body)
        self.body: nn.Module = body
        self._channels_last_output = getattr(body, "output_fmt", "NCHW") == "NHWC"
        self._out_features = [_STRIDE_TO_NAME[stride] for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        channels = body.feature_info.channels()
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, object]:
        timm_cfg = cfg.MODEL.TIMM
        if timm_cfg.WEIGHTS == LITE0_WEIGHTS:
            _check_lite0_input(cfg)
        return {
            "name": timm_cfg.NAME,
            "weights": timm_cfg.WEIGHTS,
            "out_indices": timm_cfg.OUT_INDICES,
            "norm": timm_cfg.NORM,
            "freeze_at": timm_cfg.FREEZE_AT,
            "in_channels": input_shape.channels,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps of normalized images.

        Args:
            x: (N, C, H, W), any memory format.

        Returns:
            "res2" ... "res5", those of ``out_indices``, each (N, C_level, ~H / s, ~W / s).
        """
        features = self.body(x)
        if self._channels_last_output:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return dict(zip(self._out_features, features, strict=True))


@functools.cache
def _feature_levels(name: str) -> tuple[tuple[str, int], ...]:
    """(module, stride) of every feature level of the model, from the stem on."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        raise ConfigError(
            f"MODEL.TIMM.NAME {name!r} is no model of timm {timm.__version__}; close names: "
            f"{', '.join(close) or 'none'}; timm.list_models() names all"
        )
    # The answer is cached, so building it must not move the generator that seeds real weights.
    with torch.random.fork_rng(devices=[]):
        model: Any = timm.create_model(name, features_only=True, pretrained=False)
    return tuple((level["module"], level["reduction"]) for level in model.feature_info.info)


def _checked_strides(
    name: str, levels: Sequence[tuple[str, int]], out_indices: Sequence[int]
) -> list[int]:
    """The strides of ``out_indices``, or an error that names the valid indices."""
    valid = {index: stride for index, (_, stride) in enumerate(levels) if stride in _STRIDE_TO_NAME}
    strides = [valid.get(index, 0) for index in out_indices]
    if not strides or 0 in strides or strides != sorted(set(strides)):
        named = ", ".join(f"{index} (stride {stride})" for index, stride in valid.items())
        raise ConfigError(
            f"MODEL.TIMM.OUT_INDICES is {tuple(out_indices)}; {name} has {named or 'none'}: "
            "choose from these, in rising order, each stride once"
        )
    return strides


def _drop_unused_blocks(body: nn.Module, last_module: str) -> None:
    """Remove the stages behind the last map; parameters without gradient would stop DDP.

    timm does this itself for all models but these.
    """
    if isinstance(body, EfficientNetFeatures | MobileNetV3Features):
        del body.blocks[int(last_module.removeprefix("blocks.")) + 1 :]


def _stage_modules(
    body: nn.Module, levels: Sequence[tuple[str, int]], count: int, last_level: int
) -> list[str]:
    """Names of all modules of the first ``count`` stages; timm registers them in order of use."""
    if not 0 <= count <= last_level + 1:
        raise ConfigError(
            f"MODEL.TIMM.FREEZE_AT is {count}; valid: 0 to {last_level + 1}, one more than the "
            "last of MODEL.TIMM.OUT_INDICES"
        )
    if count == 0:
        return []
    names = [name for name, _ in body.named_modules()]
    last = feature_name(levels[count - 1][0], names)
    if last not in names:
        raise ConfigError(
            f"MODEL.TIMM.FREEZE_AT is {count}, but stage {last!r} of this model is not one module; "
            "choose another number"
        )
    inside = [index for index, name in enumerate(names) if f"{name}.".startswith(f"{last}.")]
    return names[: inside[-1] + 1]


def _freeze_batch_norms(body: nn.Module, modules: Iterable[str]) -> None:
    """Replace those of ``modules`` that are a BatchNorm2d by the frozen kind."""
    for name in modules:
        norm = body.get_submodule(name)
        if isinstance(norm, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, _frozen(name, norm))


def _frozen(name: str, norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    frozen: FrozenBatchNorm2d
    if type(norm) is BatchNormAct2d:
        frozen = FrozenBatchNormAct2d(norm.num_features, norm.eps, norm.drop, norm.act)
    elif type(norm) is nn.BatchNorm2d:
        frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
    else:
        raise ConfigError(
            f"MODEL.TIMM.NORM: layer {name} is a {type(norm).__name__}, which cannot be frozen; "
            "set MODEL.TIMM.NORM to BN and MODEL.TIMM.FREEZE_AT to 0"
        )
    own = frozen.state_dict()
    frozen.load_state_dict(
        {key: value for key, value in norm.state_dict().items() if key in own}, strict=norm.affine
    )
    return frozen


def _check_lite0_input(cfg: CfgNode) -> None:
    """Refuse an input that the fixed ImageNet statistics of the package cannot work on."""
    channels = list(zip(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, strict=True))
    low = min((0 - mean) / std for mean, std in channels)
    high = max((255 - mean) / std for mean, std in channels)
    if cfg.INPUT.FORMAT != "RGB" or low < -10 or high > 10:
        raise ConfigError(
            f"MODEL.TIMM.WEIGHTS {LITE0_WEIGHTS!r} was trained on RGB images scaled to about "
            f"[-1, 1], but INPUT.FORMAT is {cfg.INPUT.FORMAT!r} and MODEL.PIXEL_MEAN and PIXEL_STD "
            f"give [{low:.1f}, {high:.1f}]: set INPUT.FORMAT RGB, MODEL.PIXEL_MEAN "
            "[127.0, 127.0, 127.0] and MODEL.PIXEL_STD [128.0, 128.0, 128.0]"
        )
