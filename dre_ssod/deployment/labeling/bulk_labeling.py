"""Detections of a trained model over any number of images, for the chunks of a job.

What stands on disk is in :mod:`dre_ssod.deployment.labeling.labeling_job`.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.structures import Instances
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dre_ssod.data.images import ImageError, is_unreachable
from dre_ssod.deployment.labeling.label_chunks import ERROR, UNREACHED, Line, Tries
from dre_ssod.deployment.labeling.label_manifest import Entry, Manifest
from dre_ssod.deployment.labeling.labeling_job import CLAIMS, LabelingJob, open_manifest
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
from dre_ssod.errors import counted
from dre_ssod.locks import Claims
from dre_ssod.modeling.gaussian import best_quality
from dre_ssod.workers import fitting, image_bytes, tend

logger = logging.getLogger(__name__)


POLL_SECONDS = 1.0
PATIENCE = 600.0
"""Seconds without a finished chunk after which a process labels what another one has claimed."""


def label_missing(job: LabelingJob, cfg: CfgNode, sharers: int = 1) -> Iterator[int]:
    """Label chunks until all are there; gives of each the number of images that were reached.

    Chunks are claimed one after the other, so that any number of processes may do this, come later
    and be killed: a claim ends with its process. Of one that hangs, or on a machine whose file
    server has not noticed its end, chunks are labeled again after ``PATIENCE``. A chunk that two
    processes label is the same twice. One with images that cannot be reached is tried once.

    Args:
        sharers: processes that label on this machine.
    """
    manifest = open_manifest(job.folder)
    tries = Tries(job.folder, len(manifest.offsets))
    missing = [number for number in range(len(manifest.offsets)) if not tries.is_over(number)]
    # In an order of its own, not that of SEED: processes seldom ask for the same, and where locks
    # don't reach from machine to machine they seldom do the same.
    random.SystemRandom().shuffle(missing)
    if not missing:
        return
    label = _Labeling(job, cfg, manifest, sharers)
    last = time.monotonic()
    with Claims(job.folder / CLAIMS) as claims:
        while missing:
            hanging = time.monotonic() - last >= PATIENCE
            chunks = iter(missing[:1]) if hanging else _claimed(missing, tries, claims)
            for number, lines in label(chunks):
                reached = tries.keep(number, lines)
                claims.give_back(number)
                yield reached
            left = [number for number in missing if not tries.is_over(number)]
            if len(left) < len(missing):
                last = time.monotonic()
                if left:
                    waiting = counted(len(left), "chunk")
                    logger.info("Waiting for %s that other processes label.", waiting)
            elif left:
                time.sleep(POLL_SECONDS)
            missing = left


def _claimed(missing: Sequence[int], tries: Tries, claims: Claims) -> Iterator[int]:
    """Those of the missing chunks that nobody else has, claimed as they are asked for."""
    for number in missing:
        known = claims.note
        if claims.take(number):
            if claims.note != known:
                logger.warning("%s", claims.note)
            if tries.is_over(number):
                claims.give_back(number)
            else:
                yield number


class _Labeling:
    """The model and how its images are read, for any number of rounds."""

    def __init__(self, job: LabelingJob, cfg: CfgNode, manifest: Manifest, sharers: int) -> None:
        self.job, self.manifest = job, manifest
        self.images = _Images(manifest, InferenceReader(cfg))
        self.model = load_trained(cfg, job.model)
        self.best_quality = best_quality(cfg.SSOD.RESCALE_LOCALIZATION_QUALITY)
        # InferenceReader gives numbers of 32 bits.
        size = 4 * image_bytes(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        self.workers = fitting(cfg.DATALOADER.NUM_WORKERS, job.batch_images * size, sharers)
        self.pin_memory = cfg.MODEL.DEVICE.startswith("cuda")

    def __call__(self, chunks: Iterator[int]) -> Iterator[tuple[int, list[Line]]]:
        """The number and the lines of each chunk; the next one is asked for while one is read."""
        first = next(chunks, None)
        if first is None:
            return
        chunks = itertools.chain([first], chunks)
        loader = DataLoader(
            self.images,
            batch_sampler=_Batches(self.manifest, chunks, self.job.batch_images),
            num_workers=self.workers,
            collate_fn=list,
            pin_memory=self.pin_memory,
        )
        lines = _label(self.model, tend(loader), self.job, self.best_quality)
        for number, group in itertools.groupby(lines, key=lambda item: item[0]):
            yield number, [line for _, line in group]


class _Batches:
    """Batches of (chunk, image), never across two chunks; one chunk's names are held at a time."""

    def __init__(self, manifest: Manifest, chunks: Iterator[int], size: int) -> None:
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
            why = {ERROR: str(error)}
            return {**known, **why, **({UNREACHED: True} if is_unreachable(error) else {})}


@torch.no_grad()
def _label(
    model: nn.Module, loader: DataLoader[dict[str, Any]], job: LabelingJob, best_quality: float
) -> Iterator[tuple[int, Line]]:
    """The chunk and the line of each image, in order."""
    with inference_context(model):
        for batch in loader:
            readable = [image for image in batch if ERROR not in image]
            outputs = iter(model(readable) if readable else [])
            again = iter(model(list(map(_mirror, readable))) if readable and job.views else [])
            for image in batch:
                entry: Entry = image["entry"]
                if ERROR in image:
                    happened = "Not reached" if UNREACHED in image else "Skipped"
                    logger.warning("%s: %s", happened, image[ERROR])
                    why = {key: image[key] for key in (ERROR, UNREACHED) if key in image}
                    line = {"id": entry.image_id, "file_name": entry.file_name}
                    yield image["chunk"], {**line, **why}
                else:
                    found = next(outputs)["instances"].to("cpu")
                    other = next(again)["instances"].to("cpu") if job.views else None
                    yield image["chunk"], image_line(entry, found, job, best_quality, other)


def _mirror(image: dict[str, Any]) -> dict[str, Any]:
    return {**image, "image": image["image"].flip(-1)}


def image_line(
    entry: Entry,
    found: Instances,
    job: LabelingJob,
    best_quality: float,
    other: Instances | None = None,
) -> Line:
    """What is kept of one image: its size, its boxes and how uncertain the model is.

    Args:
        found: detections in the image's own frame.
        best_quality: see :func:`image_uncertainty`.
        other: those in the mirror image, in its frame; only if they are to be compared.
    """
    height, width = found.image_size
    sure = found[found.scores >= job.min_score]
    counted = found[found.scores >= job.uncertain_score]
    uncertainty = image_uncertainty(counted, best_quality)
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
