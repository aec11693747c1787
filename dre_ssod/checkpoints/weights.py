"""Weights for a model: all where it is used as it is, those that fit where it is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.file_io import Detectron2Handler
from tabulate import tabulate
from torch import nn

from dre_ssod.checkpoints.checkpointer import SafeCheckpointer
from dre_ssod.checkpoints.folder import look_into, read_tensors
from dre_ssod.errors import ConfigError
from dre_ssod.stores import StoreError, weights_file

logger = logging.getLogger(__name__)


def load_all(model: nn.Module, path: str) -> None:
    """Load a file that gives every weight of a model.

    Raises:
        ConfigError: if there is no such file, or a weight is missing, broken or of another shape.
        UntrustedFileError: if the file is damaged or holds code.
    """
    # A checkpointer only warns of weights that a file lacks or has in another shape: these show it.
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    try:
        SafeCheckpointer(model).load(path)
    except (FileNotFoundError, AssertionError) as error:
        raise ConfigError(f"MODEL.WEIGHTS: there is no file {path!r}") from error
    missing = [name for name, t in model.state_dict().items() if t.isnan().any()]
    if missing:
        raise ConfigError(
            f"MODEL.WEIGHTS {path!r} does not fit the config: {len(missing)} of "
            f"{len(model.state_dict())} weights are missing, broken or of another shape, "
            f"{missing[0]} first. Use the config.yaml of the run that wrote it."
        )


def load_student(path: str, model: nn.Module) -> bool:
    """Load the ``student`` entry of a checkpoint file into ``model``.

    Returns:
        False if the file has none, as with any checkpoint not made by this project.

    Raises:
        ConfigError: if a weight is missing or of another shape.
        UntrustedFileError: if the file is damaged or holds code.
    """
    file = weights_file(path)
    if not Path(file).is_file():
        return False
    checkpoint = read_tensors(file)
    if not isinstance(checkpoint, dict) or "student" not in checkpoint:
        return False
    try:
        model.load_state_dict(checkpoint["student"])
    except RuntimeError as error:
        # The first line says in which class, the second what.
        first = str(error).splitlines()[1].strip().rstrip(".")
        raise ConfigError(
            f"the student in MODEL.WEIGHTS {path!r} does not fit the config: {first}. Use the "
            "config.yaml of the run that wrote it."
        ) from error
    return True


def method_state(path: str, name: str) -> dict[str, Any] | None:
    """What the method of a checkpoint's run has learned, such as its thresholds.

    Args:
        name: of the method.

    Returns:
        None if the file says nothing of it, or is of another method.
    """
    content = look_into(Path(weights_file(path)))
    method = content.get("trainer", {}).get("_trainer", {}).get("method", {})
    state: dict[str, Any] | None = method.get("state") if method.get("name") == name else None
    return state


def start_all(model: nn.Module, detectors: Sequence[nn.Module], path: str) -> None:
    """:func:`start_from` for each detector of a model; the file of a pair is for the pair as it is.

    Args:
        detectors: the parts of ``model``, or itself.
    """
    is_whole = len(detectors) > 1 and path and _is_of_pair(path)
    for part in (model,) if is_whole else detectors:
        start_from(part, path)
    first, *others = ([*part.state_dict().values()] for part in detectors)
    if any(all(map(torch.equal, first, other)) for other in others):
        logger.warning(
            "MODEL.WEIGHTS %r gives both detectors of the pair all of their weights, so that they "
            "are the same and tell each other nothing new. Start from a backbone, or from the file "
            "of a pair.",
            path,
        )


def say_frozen_at_random(cfg: CfgNode) -> None:
    """Warn where a backbone starts from random numbers of which some never change.

    Of backbones of this project and Detectron2's ResNets; others may have weights of their own.
    """
    model = cfg.MODEL
    if model.WEIGHTS:
        return
    if "timm" in model.BACKBONE.NAME and not model.TIMM.WEIGHTS:
        frozen = {"MODEL.TIMM.NORM": model.TIMM.NORM, "MODEL.TIMM.FREEZE_AT": model.TIMM.FREEZE_AT}
        weights = "MODEL.TIMM.WEIGHTS, those of the backbone, or MODEL.WEIGHTS, those of a detector"
    elif "resnet" in model.BACKBONE.NAME and "timm" not in model.BACKBONE.NAME:
        frozen = {
            "MODEL.RESNETS.NORM": model.RESNETS.NORM,
            "MODEL.BACKBONE.FREEZE_AT": model.BACKBONE.FREEZE_AT,
        }
        weights = "MODEL.WEIGHTS, such as 'detectron2://ImageNetPretrained/MSRA/R-50.pkl'"
    else:
        return
    (norm, kind), (stages, count) = frozen.items()
    told = [f"{norm} {kind!r}: no layer is normalized"] if kind == "FrozenBN" else []
    told += [f"{stages} {count}: its first stages never learn"] if count > 0 else []
    if told:
        logger.warning(
            "The backbone starts from random numbers, and part of it keeps them (%s). Name weights "
            "(%s), or let all of it learn: %s BN %s 0.",
            *("; ".join(told), weights, norm, stages),
        )


def start_from(model: nn.Module, path: str) -> None:
    """Load what a file has of a model that is to be trained, and log it part by part.

    Args:
        path: "" leaves the model as it is.

    Raises:
        ConfigError: if the file cannot be fetched from its address, or gives no weight at all.
        UntrustedFileError: if it is damaged or holds code.
    """
    with _telling_how_to_fetch(path):
        not_given = SafeCheckpointer(model).load_model(path)
    if not path:
        return
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    if not_given.keys() >= set(names):
        raise ConfigError(
            f"MODEL.WEIGHTS {path!r} gives none of the model's {len(names)} weights, such as "
            f"{names[0]}: it is of another program or architecture. Name a file that fits, or set "
            "MODEL.WEIGHTS '' to start without."
        )
    logger.info("Loaded from %s:\n%s", path, _format_parts(names, not_given))
    if not_given:
        logger.warning(
            "%d of %d weights are not from %s and start as they were initialized; the table above "
            "names their parts.",
            len(not_given),
            len(names),
            path,
        )


def _is_of_pair(path: str) -> bool:
    """Whether a file has the weights of two detectors, those of the second under ``partner.``.

    Raises:
        ConfigError: if the file cannot be fetched from its address.
    """
    with _telling_how_to_fetch(path):
        weights = look_into(Path(weights_file(path))).get("model")
    return isinstance(weights, dict) and any(name.startswith("partner.") for name in weights)


@contextmanager
def _telling_how_to_fetch(path: str) -> Iterator[None]:
    """Adds to a failed fetch of MODEL.WEIGHTS what to do without it.

    Raises:
        ConfigError: in place of the error of an address.
    """
    try:
        yield
    except (OSError, StoreError) as error:
        if "://" not in path:
            raise
        raise ConfigError(
            f"MODEL.WEIGHTS {path!r} could not be fetched: {error}. Fetch "
            f"{_address(path)} on a machine that has a network and name the file: "
            "MODEL.WEIGHTS FILE. Without any network, tools/new_config.py --device cpu writes a "
            "config of a smaller detector, whose ImageNet weights are installed with this project; "
            "MODEL.WEIGHTS '' starts from random numbers, all of which should learn: "
            "MODEL.RESNETS.NORM BN MODEL.BACKBONE.FREEZE_AT 0."
        ) from error


def _address(path: str) -> str:
    """Where a browser finds what Detectron2 names ``detectron2://``; else the name itself."""
    prefix = Detectron2Handler.PREFIX
    if not path.startswith(prefix):
        return path
    return Detectron2Handler.S3_DETECTRON2_PREFIX + path.removeprefix(prefix)


def _format_parts(names: list[str], not_given: Mapping[str, str]) -> str:
    """A table of the model's parts: how many of their weights were loaded, and which were not."""
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(".".join(name.split(".")[:2]), []).append(name)
    rows = []
    for part, own in parts.items():
        missing = [name for name in own if name in not_given]
        # By layer: weight and bias are one thing here.
        layers = [
            f"{_layer(name.removeprefix(part + '.'))} ({not_given[name]})" for name in missing
        ]
        layers = list(dict.fromkeys(layers))
        shown = layers[:5] + ["..."] * (len(layers) > 5)
        what = "all" if len(missing) == len(own) else ", ".join(shown)
        rows.append((part, f"{len(own) - len(missing)} of {len(own)}", what if missing else "-"))
    return str(tabulate(rows, ("part", "weights loaded", "starts from nothing"), tablefmt="pipe"))


def _layer(name: str) -> str:
    layer, _, weight = name.rpartition(".")
    return layer or weight
