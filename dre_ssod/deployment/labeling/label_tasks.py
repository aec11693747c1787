"""The images to label next as a labeling program takes them, with the model's boxes to correct."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from dre_ssod.data.conversion.coco_content import coco_uri, relative_names
from dre_ssod.data.conversion.convert import convert
from dre_ssod.data.conversion.plan import check_xml_names, on_this_machine
from dre_ssod.data.conversion.programs import (
    cvat_xml,
    how_to_show,
    label_studio_config,
    label_studio_task,
    local_address,
)
from dre_ssod.data.sources.uri import encode
from dre_ssod.data.text_files import read_json
from dre_ssod.deployment.labeling.label_chunks import Line, read_chunks
from dre_ssod.deployment.labeling.label_merge import LABEL_NEXT
from dre_ssod.deployment.labeling.labeling_job import LabelingJob, open_manifest
from dre_ssod.errors import SourceError
from dre_ssod.files import write_text
from dre_ssod.stores import Place, place_of

FORMS = ("labelstudio", "cvat", "coco", "yolo", "voc")
CONFIG = "label_config.xml"
"""Label Studio's labeling interface."""
_IMPORTED = {"labelstudio": "tasks.json", "cvat": "tasks.xml"}
_LINKED = ("yolo", "voc")


def write_tasks(job: LabelingJob, form: str) -> Path:
    """Write the images that ``merge`` has listed, at least one, the most worth it first.

    What Label Studio and CVAT import is written again with every list. The other forms, in which
    labels may be corrected right where they are, belong to one list: what is there stays as it is,
    and another list gets its own.

    Args:
        form: of ``FORMS``. For Label Studio each task has its ``uncertainty`` as a column,
            its boxes as a prediction with a score per box and 1 - uncertainty as its own, and
            ``label_config.xml`` is written beside; addresses begin with the name of the folder of
            the images. YOLO and VOC folders have links to the images.

    Raises:
        SourceError: if the form cannot hold the name of a class or an image, or the images are
            where no program opens them, or gone where there are to be links to them.
    """
    listed = read_json(job.folder / LABEL_NEXT)
    images = _listed_lines(job, [image["id"] for image in listed["images"]])
    path = tasks_path(job.folder, form)
    if form == "labelstudio":
        _write_label_studio(job, images, [image[listed["criterion"]] for image in listed["images"]])
    elif form == "cvat":
        classes = [category["name"] for category in job.categories]
        check_xml_names(classes, form)
        records = _records(job, images)
        write_text(path, cvat_xml(((record["name"], record) for record in records), classes))
    elif path.exists():
        pass
    elif form == "coco":
        _write_coco(job, images, path)
    else:
        _check_there(job, images, form)
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            uri = _write_coco(job, images, Path(folder, "listed.json"))
            convert({"train": uri}, form, path, images="link")
    return path


def tasks_path(folder: Path, form: str) -> Path:
    """The file or folder that :func:`write_tasks` writes."""
    if form in _IMPORTED:
        return folder / _IMPORTED[form]
    digest = hashlib.sha256((folder / LABEL_NEXT).read_bytes()).hexdigest()
    return folder / "tasks" / f"{form}_{digest[:8]}{'.json' if form == 'coco' else ''}"


def corrected_uri(folder: Path, form: str) -> str | None:
    """The source that the tasks are once they are corrected where they are; None for a file."""
    path = tasks_path(folder, form)
    return f"{form}://{encode(path)}?split=train" if form in _LINKED else None


def check_images(folder: Path, form: str) -> None:
    """Refuse images that a form cannot have, before they are labeled.

    Args:
        folder: of a job that has its list of images.

    Raises:
        SourceError: if they are in shards, or in a store and the form has links to them.
    """
    manifest = open_manifest(folder)
    if form in _LINKED or not manifest.root:
        on_this_machine(manifest.full_name(manifest.chunk(0)[0]))


def how_to_use(job: LabelingJob, form: str) -> str | None:
    """What a person has to know of the tasks; None if there is nothing."""
    path, classes = tasks_path(job.folder, form), [c["name"] for c in job.categories]
    if form == "yolo":
        labels = path / "labels" / "train"
        words = map(str, ("labelImg", path / "images" / "train", labels / "classes.txt", labels))
        return f"LabelImg has to be given the classes, too: {shlex.join(words)}"
    if form not in ("labelstudio", "cvat"):
        return None
    folder, _ = _names_in_folder(job, read_json(job.folder / LABEL_NEXT)["images"])
    if form == "labelstudio":
        return how_to_show(folder)
    return (
        f"CVAT takes boxes of images whose names in its task are those below {folder}, folders "
        f"included, and drops boxes without a label of the task: {', '.join(classes)}."
    )


def _check_there(job: LabelingJob, images: Sequence[Line], form: str) -> None:
    folder, names = _names_in_folder(job, images)
    for name in names:
        if not os.path.isfile(str(folder / name)):
            raise SourceError(
                f"{folder / name}: is listed to be labeled next, but there is no such file now, so "
                f"that --tasks {form} has nothing to link to. Put it back and repeat the command"
            )


def _write_label_studio(job: LabelingJob, images: Sequence[Line], doubts: Sequence[float]) -> None:
    classes = [category["name"] for category in job.categories]
    check_xml_names(classes, "labelstudio")
    tasks = []
    folder, _ = _names_in_folder(job, images)
    for record, doubt in zip(_records(job, images), doubts, strict=True):
        record["prediction_score"] = round(1.0 - doubt, 6)
        address = local_address(f"{folder.name}/{record['name']}".lstrip("/"))
        tasks.append(label_studio_task(record, address, classes, {"uncertainty": doubt}))
    write_text(tasks_path(job.folder, "labelstudio"), json.dumps(tasks, indent=1) + "\n")
    write_text(job.folder / CONFIG, label_studio_config(classes))


def _write_coco(job: LabelingJob, images: Sequence[Line], path: Path) -> str:
    """Write the images, numbered in their order, as a COCO file; returns its URI."""
    folder, names = _names_in_folder(job, images)
    boxes = [(number, box) for number, line in enumerate(images, 1) for box in line["boxes"]]
    content = {
        "images": [
            {"id": number, "file_name": name, "width": line["width"], "height": line["height"]}
            for number, (name, line) in enumerate(zip(names, images, strict=True), 1)
        ],
        "annotations": [
            {"id": identifier, "image_id": number, **box}
            for identifier, (number, box) in enumerate(boxes, 1)
        ],
        "categories": job.categories,
    }
    write_text(path, json.dumps(content) + "\n")
    return coco_uri(path, folder)


def _listed_lines(job: LabelingJob, ids: Sequence[int | str]) -> list[Line]:
    """What was found in the images with these ids, in their order."""
    wanted = set(ids)
    chunks = len(open_manifest(job.folder).offsets)
    found = {line["id"]: line for line in read_chunks(job.folder, chunks) if line["id"] in wanted}
    return [found[identifier] for identifier in ids]


def _names_in_folder(job: LabelingJob, images: Sequence[Line]) -> tuple[Place, list[str]]:
    """The folder of the job's images, and the names of these below it.

    Raises:
        SourceError: if they are in shards or, without a folder of their own, in a store.
    """
    root, names = open_manifest(job.folder).root, [line["file_name"] for line in images]
    if not root:
        return relative_names(names)
    folder = place_of(root)
    return (Path(os.path.abspath(folder)) if isinstance(folder, Path) else folder), names


def _records(job: LabelingJob, images: Sequence[Line]) -> list[dict[str, Any]]:
    """Records of the images; ``name`` is the one below their folder."""
    folder, names = _names_in_folder(job, images)
    index = {category["id"]: number for number, category in enumerate(job.categories)}
    return [
        {
            "name": name,
            "file_name": str(folder / name),
            "width": line["width"],
            "height": line["height"],
            "annotations": [
                {
                    "bbox": box["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": index[box["category_id"]],
                    "score": box["score"],
                }
                for box in line["boxes"]
            ],
        }
        for name, line in zip(names, images, strict=True)
    ]
