"""Labeled datasets written as COCO files, YOLO or VOC folders, or for a labeling program.

Read back, the new dataset has the same classes in the same order and the same images with the same
boxes in the same order. What a form has no place for is left out and counted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from dre_ssod.data.conversion.layouts import plan_coco, plan_voc, plan_yolo
from dre_ssod.data.conversion.plan import Converted, Part, Plan
from dre_ssod.data.conversion.programs import plan_cvat, plan_label_studio
from dre_ssod.data.sources.catalog import class_names, load_one_labeled
from dre_ssod.errors import SourceError
from dre_ssod.files import open_whole_folder
from dre_ssod.stores import Place, new_folder

IMAGE_MODES = ("copy", "link", "reference")


def convert(
    sources: dict[str, str],
    form: str,
    output: Path,
    images: str = "copy",
    place: Place | None = None,
) -> list[Converted]:
    """Write labeled datasets in another form.

    Args:
        sources: names or URIs by their part of the new dataset, such as "train".
        form: one of ``FORMS``.
        output: folder for the new dataset; it must be empty or not exist. It appears when all is
            written.
        images: "copy"; "link" for symbolic links to the originals; "reference", for "coco" only,
            leaves the images where they are.
        place: where the folder is put afterwards, for the URIs; it stays if None.

    Raises:
        SourceError: if a source cannot be read, or the form cannot hold it. Nothing is written
            then.
        ConfigError: if ``output`` is not empty.
        FileError: if something cannot be written. Nothing is left then.
    """
    if form not in FORMS:
        raise SourceError(f"unknown form {form!r}; valid: {', '.join(FORMS)}")
    if images not in IMAGE_MODES:
        raise SourceError(f"images must be one of {', '.join(IMAGE_MODES)}, is {images!r}")
    if images == "reference" and form != "coco":
        raise SourceError(f"{form} looks for images in its own folders: choose copy or link")
    new_folder(output)
    classes = class_names(list(sources.values()))
    parts = [Part(split, name, load_one_labeled(name)) for split, name in sources.items()]
    for part in parts:
        for file in part.files:
            if not os.path.isfile(file):
                raise SourceError(f"{part.name}: the image {file} is missing")
    plan = FORMS[form](parts, classes, place or output, images == "reference")
    with open_whole_folder(output) as folder:
        pairs = plan.pictures.items()
        for name, file in tqdm(pairs, desc="images", unit="image", disable=None):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file) if images == "link" else shutil.copyfile(file, target)
        for name, text in plan.texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    return plan.results


_Planner = Callable[[Sequence[Part], Sequence[str], Place, bool], Plan]

FORMS: dict[str, _Planner] = {
    "coco": plan_coco,
    "yolo": plan_yolo,
    "voc": plan_voc,
    "labelstudio": plan_label_studio,
    "cvat": plan_cvat,
}
"""Planners by the name of the form."""
