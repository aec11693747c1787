"""What a run makes before it starts: pseudo-labels that are stored, where its method wants them.

First a detector is trained on the labeled images alone, by the same config; it has a folder of its
own. Then it labels the unlabeled images, in chunks. Both continue where they stopped.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dre_ssod.checkpoints.checkpointer import SafeCheckpointer
from dre_ssod.config.keys import without_refining
from dre_ssod.data.images import ImageError, is_unreachable
from dre_ssod.data.mappers import EvaluationMapper
from dre_ssod.data.splits.pools import Pools
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.engine.training_data import load_pools
from dre_ssod.errors import ConfigError, SourceError
from dre_ssod.files import write_text
from dre_ssod.methods import StoredLabels, method_class
from dre_ssod.runs.contents import SetContent
from dre_ssod.runs.resuming import default_settings, settings_of
from dre_ssod.workers import fitting, image_bytes, tend

logger = logging.getLogger(__name__)

CHUNK = 500
"""Images that are labeled between two files."""
MADE_BY = "made_by.json"
"""In the folder of the labels, by which settings and labeled images they are made."""
_LABELED = "the labeled images"
_OF_LABELS = ("MODEL.", "INPUT.", "SOLVER.", "SEED", "SSOD.LABELED_")
"""First parts of the keys that they depend on."""


def start(cfg: CfgNode, resume: bool) -> SSODTrainer:
    """The trainer of a run at its first iteration or, to resume it, after its last checkpoint.

    Its method has what it wants stored.
    """
    has_stages = method_class(cfg).stored_labels(cfg) is not None
    # The trainer looks for the last checkpoint itself: here only a method of stages asks.
    begun = has_stages and resume and _has_begun(cfg)
    store_labels(cfg, begun)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def _has_begun(cfg: CfgNode) -> bool:
    """Whether a run has a checkpoint; the first process looks for all."""
    return SafeCheckpointer(nn.Identity(), cfg.OUTPUT_DIR).find_last() is not None


def store_labels(cfg: CfgNode, begun: bool = False) -> None:
    """Make the labels that the method of a config wants stored, unless they are there.

    All processes must call this.

    Args:
        begun: whether the run has learned from them, so that they stay what they are.

    Raises:
        ConfigError: if those of a run that has not begun were made by other settings or of other
            labeled images.
    """
    wanted = method_class(cfg).stored_labels(cfg)
    if wanted is None:
        return
    first = labeled_stage(cfg, wanted.path.parent / "supervised")
    if not begun:
        _refuse_other_labels(cfg, first, wanted)
    if not wanted.path.is_file():
        _make_labels(cfg, first, wanted)
    # The weights that the run starts from are drawn next. They are the same whether the stages
    # before were made by this process, in part, or by one that was killed.
    seed_all_rng(cfg.SEED + comm.get_rank())


def _refuse_other_labels(cfg: CfgNode, first: CfgNode, wanted: StoredLabels) -> None:
    """Labels, or some of them, may be there since another run was to begin in this folder."""
    folder = wanted.path.parent
    path = folder / MADE_BY
    if not path.is_file() or not (wanted.path.is_file() or any(folder.glob("chunk_*.json"))):
        return
    now = _made_by(first, wanted, load_pools(cfg))
    # Those of an earlier version do not know keys that came later, nor the images.
    unknown = {**default_settings(), _LABELED: now[_LABELED]}
    before = {**unknown, **json.loads(path.read_text(encoding="utf-8"))}
    other = sorted(key for key, value in now.items() if before.get(key) != value)
    if other:
        key = other[0]
        raise ConfigError(
            f"{folder} has pseudo-labels that were made with {key} {before.get(key)!r}, and it is "
            f"{now[key]!r} now ({', '.join(other)} differ): choose another OUTPUT_DIR, or "
            f"remove {folder} to make them anew"
        )


def _made_by(first: CfgNode, wanted: StoredLabels, pools: Pools) -> dict[str, Any]:
    """What the labels depend on, but for the images that get them.

    Args:
        first: the config of the first stage.
    """
    found = {k: v for k, v in settings_of(first).items() if k.startswith(_OF_LABELS)}
    found["SSOD.STAC.OWN_SIZE"] = wanted.short_side == 0
    found[_LABELED] = SetContent.of(pools.labeled, pools.classes).sha256[:12]
    return {k: v for k, v in found.items() if not k.startswith("SOLVER.CHECKPOINT")}


def _make_labels(cfg: CfgNode, first: CfgNode, wanted: StoredLabels) -> None:
    path = wanted.path
    # What is wrong with the data shows before anything is trained.
    pools = load_pools(cfg)
    logger.info(
        "No labels are stored yet: training on labeled images alone, in %s", first.OUTPUT_DIR
    )
    detector = _trained(first)
    if comm.is_main_process():
        write_text(path.parent / MADE_BY, json.dumps(_made_by(first, wanted, pools), indent=1))
    mapper = EvaluationMapper(wanted.short_side, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT)
    size = image_bytes(wanted.short_side, cfg.INPUT.MAX_SIZE_TEST)
    # At their own size images may be larger than shared memory has room for.
    asked = cfg.DATALOADER.NUM_WORKERS if wanted.short_side else 0
    workers = fitting(asked, size, comm.get_local_size())
    label_images(detector, pools.unlabeled, mapper, path.parent, workers)
    comm.synchronize()
    if comm.is_main_process():
        merge_chunks(path, len(pools.unlabeled), pools.classes)
    comm.synchronize()


def _trained(first: CfgNode) -> nn.Module:
    """The detector of the first stage; what trained it, its loading processes too, is let go."""
    Path(first.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = SSODTrainer(first)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return trainer.student


def labeled_stage(cfg: CfgNode, folder: Path) -> CfgNode:
    """The config of the first stage: the same schedule on the labeled images of each batch."""
    first = cfg.clone()
    first.defrost()
    labeled, unlabeled = cfg.SSOD.LABELED_TO_UNLABELED
    first.SSOD.METHOD = "Supervised"
    first.SSOD.BURN_IN_ITERS = 0
    first.SSOD.PANEL_PERIOD = 0
    first.SOLVER.IMS_PER_BATCH = cfg.SOLVER.IMS_PER_BATCH * labeled // (labeled + unlabeled)
    # What is labeled here are pseudo-labels, which no key of TEST refines.
    first.merge_from_list(without_refining([]))
    first.OUTPUT_DIR = str(folder)
    first.freeze()
    return first


@torch.no_grad()
def label_images(
    model: nn.Module,
    records: Sequence[dict[str, Any]],
    mapper: EvaluationMapper,
    folder: Path,
    workers: int = 0,
) -> None:
    """Detections on images, in a file for each chunk of them.

    Every process takes each chunk whose number it has modulo the number of processes, unless its
    file is there.

    Args:
        workers: loading processes; 0 loads in the calling one.
    """
    model.eval()
    own = range(comm.get_rank(), _chunks(len(records)), comm.get_world_size())
    missing = {
        number: range(number * CHUNK, min((number + 1) * CHUNK, len(records)))
        for number in own
        if not _chunk(folder, number).is_file()
    }
    if not missing:
        return
    loaded = _load((records[i] for chunk in missing.values() for i in chunk), mapper, workers)
    for number, chunk in missing.items():
        lines = [_label(model, image) for image in itertools.islice(loaded, len(chunk))]
        write_text(_chunk(folder, number), json.dumps(lines))
        logger.info("Labeled %d of %d images", chunk.stop, len(records))


def _load(
    records: Iterator[dict[str, Any]], mapper: EvaluationMapper, workers: int
) -> Iterator[dict[str, Any]]:
    """What a mapper makes of each record, in their order."""
    # A loading process is sent one record at a time: all of them may not fit into its memory.
    loader = DataLoader(_Images(mapper), batch_size=None, sampler=records, num_workers=workers)
    return iter(tend(loader))


class _Images(Dataset[dict[str, Any]]):
    """Images by their records; a broken one comes back with its ``error``."""

    def __init__(self, mapper: EvaluationMapper) -> None:
        self._mapper = mapper

    def __getitem__(self, record: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._mapper(record)
        except ImageError as error:
            kind = "unreached" if is_unreachable(error) else "error"
            return {"file_name": record["file_name"], kind: str(error)}


def _label(model: nn.Module, image: dict[str, Any]) -> dict[str, Any]:
    """
    Raises:
        SourceError: if the image could not be reached: the whole run would learn without it.
    """
    if "unreached" in image:
        raise SourceError(
            f"{image['unreached']}. An unlabeled image that cannot be reached would stay without "
            "labels in all of the training: put it back and repeat the command with --resume, "
            "which keeps what is done. If it is gone for good, take it out of the set and choose "
            "another OUTPUT_DIR"
        )
    if "error" in image:
        logger.warning("Left unlabeled: %s", image["error"])
        return {"file_name": image["file_name"], "height": 0, "width": 0, "boxes": []}
    found = model([image])[0]["instances"].to("cpu")
    return {
        "file_name": image["file_name"],
        "height": int(image["height"]),
        "width": int(image["width"]),
        "boxes": [
            {"class": label, "score": score, "corners": corners}
            for label, score, corners in zip(
                found.pred_classes.tolist(),
                found.scores.tolist(),
                found.pred_boxes.tensor.tolist(),
                strict=True,
            )
        ],
    }


def merge_chunks(path: Path, images: int, classes: Sequence[str]) -> None:
    """One COCO file out of the chunks of so many images, as tools/pseudo_label.py writes it."""
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
    }
    for number in range(_chunks(images)):
        for line in json.loads(_chunk(path.parent, number).read_text(encoding="utf-8")):
            image_id = len(content["images"]) + 1
            size = {"height": line["height"], "width": line["width"]}
            content["images"].append({"id": image_id, "file_name": line["file_name"], **size})
            for box in line["boxes"]:
                x1, y1, x2, y2 = box["corners"]
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": image_id,
                        "category_id": box["class"] + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "score": box["score"],
                    }
                )
    write_text(path, json.dumps(content))


def _chunks(images: int) -> int:
    return -(-images // CHUNK)


def _chunk(folder: Path, number: int) -> Path:
    return folder / f"chunk_{number:05d}.json"
