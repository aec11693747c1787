"""Detections of a trained model over any number of images, for the chunks of a job.

What stands on disk is in :mod:`dre_ssod.deployment.labeling.labeling_job`.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dre_ssod.data.images import ImageError
from dre_ssod.deployment.labeling.label_manifest import Entry, Manifest
from dre_ssod.deployment.labeling.labeling_job import LabelingJob, chunk_path, open_manifest
from dre_ssod.deployment.labeling.uncertainty import (
    VIEWS,
    disagreement,
    image_uncertainty,
    mirrored,
)
from dre_ssod.deployment.trained_model import (
    PIXEL_DIGITS,
    Category,
    InferenceReader,
    as_boxes,
    load_trained,
)
from dre_ssod.files import write_text
from dre_ssod.workers import fitting, image_bytes, tend

logger = logging.getLogger(__name__)


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
    model = load_trained(cfg, job.model)
    # InferenceReader gives numbers of 32 bits.
    size = 4 * image_bytes(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    batch_bytes = job.batch_images * size
    loader = DataLoader(
        _Images(manifest, InferenceReader(cfg)),
        batch_sampler=_Batches(manifest, share, job.batch_images),
        num_workers=fitting(cfg.DATALOADER.NUM_WORKERS, batch_bytes, comm.get_local_size()),
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
            again = iter(model(list(map(_mirror, readable))) if readable and job.views else [])
            for image in batch:
                entry: Entry = image["entry"]
                if "error" in image:
                    logger.warning("Skipped: %s", image["error"])
                    line = {"id": entry.image_id, "file_name": entry.file_name}
                    yield image["chunk"], {**line, "error": image["error"]}
                else:
                    found = next(outputs)["instances"].to("cpu")
                    other = next(again)["instances"].to("cpu") if job.views else None
                    yield image["chunk"], image_line(entry, found, job, other)


def _mirror(image: dict[str, Any]) -> dict[str, Any]:
    return {**image, "image": image["image"].flip(-1)}


def image_line(
    entry: Entry, found: Instances, job: LabelingJob, other: Instances | None = None
) -> dict[str, Any]:
    """What is kept of one image: its size, its boxes and how uncertain the model is.

    Args:
        found: detections in the image's own frame.
        other: those in the mirror image, in its frame; only if they are to be compared.
    """
    height, width = found.image_size
    sure = found[found.scores >= job.min_score]
    counted = found[found.scores >= job.uncertain_score]
    uncertainty = image_uncertainty(counted)
    if other is not None:
        second = mirrored(other[other.scores >= job.uncertain_score])
        uncertainty[VIEWS] = disagreement(counted, second)
    return {
        "id": entry.image_id,
        "file_name": entry.file_name,
        "width": width,
        "height": height,
        "boxes": _annotations(sure, job.categories),
        "uncertainty": uncertainty,
    }


def _annotations(found: Instances, categories: list[Category]) -> list[dict[str, Any]]:
    """COCO annotations without ids."""
    boxes = as_boxes(found, categories)
    areas = (box["bbox"][2] * box["bbox"][3] for box in boxes)
    return [
        {**box, "area": round(area, PIXEL_DIGITS), "iscrowd": 0}
        for box, area in zip(boxes, areas, strict=True)
    ]
