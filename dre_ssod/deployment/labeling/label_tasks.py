"""The images to label next as tasks of a labeling program, with the model's boxes to correct."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from dre_ssod.data.conversion.plan import check_xml_names
from dre_ssod.data.conversion.programs import (
    cvat_xml,
    label_studio_config,
    label_studio_task,
    local_address,
)
from dre_ssod.data.text_files import read_json
from dre_ssod.deployment.labeling.label_merge import LABEL_NEXT, lines
from dre_ssod.deployment.labeling.labeling_job import LabelingJob, open_manifest
from dre_ssod.files import write_text

PROGRAMS = ("labelstudio", "cvat")
CONFIG = "label_config.xml"
"""Label Studio's labeling interface."""


def write_tasks(job: LabelingJob, program: str) -> Path:
    """Write the images that ``merge`` has listed, the one that is most worth it first.

    Args:
        program: of ``PROGRAMS``. For Label Studio each task has its ``uncertainty`` as a column,
            its boxes as a prediction with a score per box and 1 - uncertainty as its own, and
            ``label_config.xml`` is written beside; images are served from the folder they are in.

    Raises:
        SourceError: if XML cannot hold the name of a class or an image.
    """
    listed = read_json(job.folder / LABEL_NEXT)
    classes = [category["name"] for category in job.categories]
    check_xml_names(classes, program)
    records = _records(job, [image["id"] for image in listed["images"]])
    path = tasks_path(job.folder, program)
    if program == "cvat":
        write_text(path, cvat_xml(((r["name"], r) for r in records), classes))
        return path
    tasks = []
    for image, record in zip(listed["images"], records, strict=True):
        doubt = image[listed["criterion"]]
        record["prediction_score"] = round(1.0 - doubt, 6)
        # Where names are complete, the root of the file system is what Label Studio serves.
        address = local_address(record["name"].lstrip(os.sep))
        tasks.append(label_studio_task(record, address, classes, {"uncertainty": doubt}))
    write_text(path, json.dumps(tasks, indent=1) + "\n")
    write_text(job.folder / CONFIG, label_studio_config(classes))
    return path


def tasks_path(folder: Path, program: str) -> Path:
    """The file that :func:`write_tasks` writes."""
    return folder / ("tasks.xml" if program == "cvat" else "tasks.json")


def _records(job: LabelingJob, ids: list[int | str]) -> list[dict[str, Any]]:
    """Records of the images with these ids, in their order; ``name`` is the one in its folder."""
    manifest = open_manifest(job.folder)
    index = {category["id"]: number for number, category in enumerate(job.categories)}
    rank = {identifier: number for number, identifier in enumerate(ids)}
    found: list[dict[str, Any]] = [{}] * len(ids)
    for line in lines(job.folder, len(manifest.offsets)):
        if line["id"] in rank:
            annotations = [
                {
                    "bbox": box["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": index[box["category_id"]],
                    "score": box["score"],
                }
                for box in line["boxes"]
            ]
            found[rank[line["id"]]] = {
                "name": line["file_name"],
                "file_name": os.path.join(manifest.root, line["file_name"]),
                "width": line["width"],
                "height": line["height"],
                "annotations": annotations,
            }
    return found
