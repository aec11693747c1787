"""Labeling jobs of a few images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dre_ssod.deployment.labeling.bulk_labeling import label_missing
from dre_ssod.deployment.labeling.label_merge import merge
from dre_ssod.deployment.labeling.labeling_job import LabelingJob, prepare
from tests.factories import NUM_CLASSES

CATEGORIES = [{"id": 10 * (k + 1), "name": f"class{k}"} for k in range(NUM_CLASSES)]
MIN_SCORE = 0.4


def job_in(folder: Path, images: Path, **changes: Any) -> LabelingJob:
    job = LabelingJob(
        folder, str(images), CATEGORIES, MIN_SCORE, 0.3, batch_images=1, chunk_images=3
    )
    return replace(job, **changes)


def run(job: LabelingJob, cfg: CfgNode) -> dict[str, bytes]:
    """A whole job; the bytes of its results by name."""
    prepare(job, cfg)
    list(label_missing(job, cfg))
    return merged(job)


def merged(job: LabelingJob) -> dict[str, bytes]:
    merge(job, 3, "both")
    return read(job)


def read(job: LabelingJob) -> dict[str, bytes]:
    names = ("pseudo_labels.json", "label_next.json", "skipped.jsonl")
    return {n: (job.folder / n).read_bytes() for n in names if (job.folder / n).exists()}


def result(job: LabelingJob) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((job.folder / "pseudo_labels.json").read_text())
    return content
