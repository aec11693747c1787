"""What a checkpoint says of its detector, which makes it usable without its config and its data.

The entry ``run`` has ``settings`` (:func:`dre_ssod.runs.resuming.settings_of`) and ``categories``,
the classes in the order of the model's outputs. In the checkpoints of a run it lies under
``trainer``, beside what is needed to resume; in a file of weights alone, beside them.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from dre_ssod.checkpoints.folder import find_last, gone_on, read_tensors
from dre_ssod.data.sources.catalog import class_names
from dre_ssod.errors import ConfigError
from dre_ssod.runs.resuming import KEPT, settings_of
from dre_ssod.stores import Place

logger = logging.getLogger(__name__)

_OF_THE_TRAINING = (*KEPT, "TEST.PSEUDO_LABEL_SET")
"""Keys that name files of the machine where a model was trained, and no property of it."""


@dataclass(frozen=True)
class TrainedDetector:
    """A detector as its checkpoint describes it.

    Attributes:
        settings: values of config keys, as JSON keeps them.
        categories: ``id`` in COCO files and ``name`` of each class, in the model's order.
    """

    settings: dict[str, Any]
    categories: list[dict[str, Any]]


def categories_of(train: Sequence[str]) -> list[dict[str, Any]]:
    """``id`` and ``name`` of the classes of DATASETS.TRAIN, in the order of their indices.

    Raises:
        SourceError: if a set cannot be read, or two have other classes.
    """
    names = class_names(train)
    known = MetadataCatalog.get(train[0]).get("thing_dataset_id_to_contiguous_id")
    ids = {index: number for number, index in (known or {}).items()}
    return [{"id": ids.get(i, i + 1), "name": name} for i, name in enumerate(names)]


def entry_for_weights(cfg: CfgNode, categories: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entry ``run`` of a file of weights alone, which is made to be given away."""
    settings = settings_of(cfg)
    kept = {key: value for key, value in settings.items() if key not in _OF_THE_TRAINING}
    return {"settings": kept, "categories": list(categories)}


def read_detector(path: Path) -> TrainedDetector | None:
    """What a file says of its detector; None where it says nothing.

    That is so of other programs' checkpoints, of those of version 0.1.0, and of what is no local
    ``.pth`` file.

    Raises:
        UntrustedFileError: if the file is damaged or holds code.
    """
    if path.suffix != ".pth" or not path.is_file():
        return None
    content = read_tensors(path, mmap=zipfile.is_zipfile(path))
    for owner in (content, _part(content, "trainer")):
        run = _part(owner, "run")
        if isinstance(run, dict) and isinstance(run.get("settings"), dict):
            return TrainedDetector(run["settings"], run.get("categories") or _numbered(run))
    return None


def _part(content: Any, name: str) -> Any:
    return content.get(name) if isinstance(content, dict) else None


def _numbered(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a checkpoint that names its classes without their ids, as some before 0.2.0 do."""
    names = run["sets"]["labeled"]["classes"]
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def find_checkpoint(path: Place) -> Place:
    """A file itself; of a run's folder ``model_final.pth``, or the newest where it is not done.

    Not done is also a run that goes on after a first end, by a larger SOLVER.MAX_ITER.

    In a store a folder stands for ``model_final.pth`` alone: finding the newest reads them all.

    Raises:
        ConfigError: if there is nothing of that name, or the folder holds no checkpoint of a run.
        CheckpointError: if it holds some, but none that is sound.
        StoreError: if it is in a store that cannot be asked.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(
            f"{str(path)!r}: there is no such file or folder; name a checkpoint (.pth) or the "
            "folder of a run"
        )
    final = path / "model_final.pth"
    if final.is_file():
        newer = gone_on(path, final) if isinstance(path, Path) and isinstance(final, Path) else None
        if newer is None:
            return final
        logger.warning(
            "%s: the run has gone on since %s: taking %s", path, final.name, newer.path.name
        )
        return newer.path
    last = find_last(path) if isinstance(path, Path) else None
    if last is None:
        others = ", ".join(sorted(file.name for file in path.glob("*.pth"))) or "none"
        raise ConfigError(
            f"{str(path)!r} holds no checkpoint of a run, such as model_final.pth. Name a file; "
            f".pth files there: {others}"
        )
    return last.path
