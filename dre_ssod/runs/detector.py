"""What a checkpoint says of its detector, which makes it usable without its config and its data.

The entry ``run`` has ``settings`` (:func:`dre_ssod.runs.resuming.settings_of`) and ``categories``,
the classes in the order of the model's outputs. In the checkpoints of a run it lies under
``trainer``, beside what is needed to resume; in a file of weights alone, beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import log_first_n

from dre_ssod.checkpoints.folder import find_last, gone_on, look_into
from dre_ssod.data.sources.catalog import class_names
from dre_ssod.errors import ConfigError
from dre_ssod.runs.resuming import KEPT, settings_of
from dre_ssod.stores import Place, weights_file

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
    file that PyTorch wrote.

    Raises:
        UntrustedFileError: if the file is damaged or holds code.
    """
    content = look_into(path)
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


def check_start(cfg: CfgNode) -> None:
    """Compare the classes of a training with those of the MODEL.WEIGHTS that it starts from.

    A file that does not name its classes, or has another number of them, gives no weight of one.

    Raises:
        ConfigError: see :func:`check_classes`.
    """
    weights = cfg.MODEL.WEIGHTS
    described = read_detector(Path(weights_file(weights))) if weights else None
    if described is not None and len(described.categories) == cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        check_classes(described, cfg.DATASETS.TRAIN)


def check_classes(described: TrainedDetector, train: Sequence[str]) -> None:
    """Compare a model's classes with those of DATASETS.TRAIN, by which it is trained or measured.

    Other names are warned of, since classes may have been renamed.

    Raises:
        ConfigError: if they are the same in another order, so that none would be the right one.
    """
    compare_classes(
        described.categories,
        class_names(train),
        f"those of DATASETS.TRAIN {', '.join(train)}",
        "name the sets of the training in DATASETS.TRAIN, or others whose classes have this order, "
        "or choose other MODEL.WEIGHTS",
    )


def compare_classes(
    known: Sequence[dict[str, Any]], given: Sequence[str], whose: str, advice: str
) -> None:
    """Compare the classes of MODEL.WEIGHTS with those given; other names are warned of.

    Args:
        whose: what the given ones are called in the messages.
        advice: what to do about another order.

    Raises:
        ConfigError: if they are the same in another order.
    """
    own = [category["name"] for category in known]
    if own == list(given):
        return
    what = (
        f"MODEL.WEIGHTS was trained with the classes {', '.join(own)}, in this order, and {whose} "
        f"are {', '.join(given)}"
    )
    if sorted(own) == sorted(given):
        raise ConfigError(f"{what}: {advice}")
    # Processes of a program, and its steps, look once more.
    message = f"{what}: a class is taken for the one at its place."
    log_first_n(logging.WARNING, message, key="message", name=__name__)


def find_checkpoint(path: Place) -> Place:
    """A file itself; of a run's folder ``model_final.pth``, or the newest where it is not done.

    Not done is also a run that goes on after a first end, by a larger SOLVER.MAX_ITER or from an
    earlier checkpoint.

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
            "%s: the run has gone on, or back, since %s: taking %s",
            *(path, final.name, newer.path.name),
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
