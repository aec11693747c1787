"""Detections of a trained model over any number of images, in chunks that are finished or not.

A job's folder holds ``settings.json``, ``manifest.jsonl`` and ``chunks/000000.jsonl`` and so on,
one line per image. A chunk is written whole, so a job that was interrupted continues with the
chunks that are missing, with any number of processes, and its result is the same to the last byte.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.structures import Instances
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import leaves
from dre_ssod.data.images import ImageError
from dre_ssod.deployment.label_manifest import Entry, Manifest, open_images
from dre_ssod.deployment.trained_model import (
    PIXEL_DIGITS,
    Category,
    InferenceReader,
    as_boxes,
    device_of,
    load_trained,
)
from dre_ssod.deployment.uncertainty import image_uncertainty
from dre_ssod.errors import ConfigError
from dre_ssod.files import clear_partial, final_name, write_text
from dre_ssod.locks import holding
from dre_ssod.workers import tend

SETTINGS = "settings.json"
MANIFEST = "manifest.jsonl"
CHUNKS = "chunks"
LOCK = ".labeling.lock"
_UNRELATED = (
    *("VERSION", "SEED", "OUTPUT_DIR", "DATASETS.", "DATALOADER.", "SOLVER.", "TEST.EVAL_PERIOD"),
    *("MODEL.DEVICE", "MODEL.WEIGHTS", "TEST.IMS_PER_BATCH"),
)
"""Keys of training alone, and keys for which a job has settings of its own."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelingJob:
    """What is to be labeled, and how.

    Attributes:
        folder: of the job.
        source: a folder of images, or a dataset's name or URI.
        categories: the model's classes.
        min_score: lowest foreground score of a box that is written.
        uncertain_score: lowest score of a box that counts in an image's uncertainty.
        batch_images: images of a forward pass.
        chunk_images: images of a file.
    """

    folder: Path
    source: str
    categories: list[Category]
    min_score: float
    uncertain_score: float
    batch_images: int
    chunk_images: int

    def settings(self, cfg: CfgNode) -> dict[str, Any]:
        """All that the result depends on, by name, as JSON keeps it.

        Of the config, the keys that are not at their default: a key that did not exist when a job
        was started does not stop it.
        """
        defaults = dict(leaves(get_cfg()))
        keys = {
            key: value
            for key, value in leaves(cfg)
            if value != defaults[key] and not key.startswith(_UNRELATED)
        }
        settings = {
            "source": self.source,
            "weights_sha256": _digest(Path(cfg.MODEL.WEIGHTS)),
            "device": device_of(cfg).partition(":")[0],
            "categories": self.categories,
            "min_score": self.min_score,
            "uncertain_score": self.uncertain_score,
            "batch_images": self.batch_images,
            "chunk_images": self.chunk_images,
            **keys,
        }
        as_read: dict[str, Any] = json.loads(json.dumps(settings))
        return as_read


def prepare(job: LabelingJob, cfg: CfgNode, until: ExitStack) -> Manifest:
    """Start a job or take up an interrupted one; for one process, before the others begin.

    Args:
        until: this process has the folder for itself until it is closed.

    Raises:
        FolderInUseError: if another command is at work in the folder.
        ConfigError: if the folder holds another job or anything else.
        SourceError: if there are no images.
    """
    settings = job.settings(cfg)
    path = job.folder / SETTINGS
    if path.exists():
        saved = _read_settings(job.folder)
        names = [name for name in settings | saved if name != "manifest"]
        changed = [name for name in names if saved.get(name) != settings.get(name)]
        if changed:
            raise ConfigError(
                f"{job.folder} holds a job with other settings: {', '.join(changed)}. Choose "
                "another --output, or repeat the command with which the job was started."
            )
        _hold(job.folder, until)
        (job.folder / CHUNKS).mkdir(exist_ok=True)
        clear_partial(job.folder / CHUNKS, lambda _: True)
        return open_manifest(job.folder)
    # What a job leaves that was interrupted before its list of images was whole.
    unfinished = (MANIFEST, SETTINGS, LOCK)
    if job.folder.exists() and any(final_name(p) not in unfinished for p in job.folder.iterdir()):
        raise ConfigError(f"{job.folder} is not empty and holds no job: choose another --output")
    job.folder.mkdir(parents=True, exist_ok=True)
    _hold(job.folder, until)
    clear_partial(job.folder, lambda _: True)
    images = open_images(job.source)
    manifest = Manifest.write(job.folder / MANIFEST, images, job.chunk_images)
    # Last, so that a folder with settings has a whole manifest.
    write_text(path, json.dumps({**settings, "manifest": manifest.as_dict()}, indent=1))
    (job.folder / CHUNKS).mkdir()
    return manifest


def open_manifest(folder: Path) -> Manifest:
    """The list of images of a job that :func:`prepare` has started."""
    settings = _read_settings(folder)
    try:
        return Manifest.from_dict(folder / MANIFEST, settings["manifest"])
    except (KeyError, TypeError) as error:
        raise _damaged(folder / SETTINGS) from error


def _hold(folder: Path, until: ExitStack) -> None:
    if note := until.enter_context(holding(folder / LOCK)):
        logger.warning("%s", note)


def _read_settings(folder: Path) -> dict[str, Any]:
    """
    Raises:
        ConfigError: if the file is none that a job has written.
    """
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(settings, dict):
        raise _damaged(path)
    return settings


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is damaged: it does not hold the settings of a job. Bring it back from a copy, or "
        "choose another --output."
    )


def chunk_path(folder: Path, number: int) -> Path:
    """The file of a finished chunk."""
    return folder / CHUNKS / f"{number:06d}.jsonl"


def label_share(
    job: LabelingJob, cfg: CfgNode, rank: int = 0, world_size: int = 1
) -> Iterator[int]:
    """Label the chunks of one process; gives the number of images of each as it is finished.

    Args:
        rank, world_size: this process takes every ``world_size``-th chunk. Which ones does not
            depend on what others have finished, so none is left out or labeled twice.
    """
    manifest = open_manifest(job.folder)
    own = range(rank, len(manifest.offsets), world_size)
    share = [number for number in own if not chunk_path(job.folder, number).exists()]
    if not share:
        return
    model = load_trained(cfg)
    loader = DataLoader(
        _Images(manifest, InferenceReader(cfg)),
        batch_sampler=_Batches(manifest, share, job.batch_images),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
    )
    lines = _label(model, tend(loader), job)
    for number, group in itertools.groupby(lines, key=lambda item: item[0]):
        content = [line for _, line in group]
        text = "".join(json.dumps(line) + "\n" for line in content)
        write_text(chunk_path(job.folder, number), text)
        yield len(content)


class _Batches:
    """Batches of (chunk, image), never across two chunks; one chunk's names are held at a time."""

    def __init__(self, manifest: Manifest, chunks: Sequence[int], size: int) -> None:
        self.manifest = manifest
        self.chunks = chunks
        self.size = size

    def __iter__(self) -> Iterator[list[tuple[int, Entry]]]:
        for number in self.chunks:
            entries = iter(self.manifest.chunk(number))
            while batch := list(itertools.islice(entries, self.size)):
                yield [(number, entry) for entry in batch]


class _Images(Dataset[dict[str, Any]]):
    """Reads the image that a batch names; a broken one comes back with its ``error``."""

    def __init__(self, manifest: Manifest, reader: InferenceReader) -> None:
        self.manifest = manifest
        self.reader = reader

    def __getitem__(self, item: tuple[int, Entry]) -> dict[str, Any]:
        chunk, entry = item
        known = {"chunk": chunk, "entry": entry}
        try:
            return {**known, **self.reader(self.manifest.full_name(entry))}
        except ImageError as error:
            return {**known, "error": str(error)}


@torch.no_grad()
def _label(
    model: nn.Module, loader: DataLoader[dict[str, Any]], job: LabelingJob
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The chunk and the line of each image, in order."""
    with inference_context(model):
        for batch in loader:
            readable = [image for image in batch if "error" not in image]
            outputs = iter(model(readable) if readable else [])
            for image in batch:
                entry: Entry = image["entry"]
                if "error" in image:
                    logger.warning("Skipped: %s", image["error"])
                    line = {"id": entry.image_id, "file_name": entry.file_name}
                    yield image["chunk"], {**line, "error": image["error"]}
                else:
                    found = next(outputs)["instances"].to("cpu")
                    yield image["chunk"], image_line(entry, found, job)


def image_line(entry: Entry, found: Instances, job: LabelingJob) -> dict[str, Any]:
    """What is kept of one image: its size, its boxes and how uncertain the model is.

    Args:
        found: detections in the image's own frame.
    """
    height, width = found.image_size
    sure = found[found.scores >= job.min_score]
    return {
        "id": entry.image_id,
        "file_name": entry.file_name,
        "width": width,
        "height": height,
        "boxes": _annotations(sure, job.categories),
        "uncertainty": image_uncertainty(found[found.scores >= job.uncertain_score]),
    }


def _annotations(found: Instances, categories: list[Category]) -> list[dict[str, Any]]:
    """COCO annotations without ids."""
    boxes = as_boxes(found, categories)
    areas = (box["bbox"][2] * box["bbox"][3] for box in boxes)
    return [
        {**box, "area": round(area, PIXEL_DIGITS), "iscrowd": 0}
        for box, area in zip(boxes, areas, strict=True)
    ]


def _digest(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"MODEL.WEIGHTS: there is no file {str(path)!r}")
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
