"""Any labeled dataset, or the two parts of its split, as the content of COCO files."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dre_ssod.data.conversion.plan import coco_file, on_this_machine
from dre_ssod.data.records import corners, image_size, is_crowd
from dre_ssod.data.sources.catalog import NamedRecord, class_names
from dre_ssod.data.sources.coco import turned_box
from dre_ssod.data.sources.uri import encode, is_uri, parse_uri
from dre_ssod.data.splits.split import Split
from dre_ssod.data.text_files import read_json
from dre_ssod.errors import SourceError
from dre_ssod.files import write_text
from dre_ssod.stores import Place

SHAPES = "shapes"
"""Entry of an annotation for what :func:`find_shapes` finds of it."""
_SHAPES = ("segmentation", "keypoints", "num_keypoints")


@dataclass(frozen=True)
class CocoContent:
    """A labeled dataset in COCO's form.

    Attributes:
        content: what a COCO file holds; the images' ids rise in the order of the dataset.
        image_root: the folder that ``file_name`` of the images is relative to.
        source_ids: the id that the dataset itself has for each image of ``content``, as text.
    """

    content: dict[str, Any]
    image_root: Path
    source_ids: tuple[str, ...]

    def only(self, chosen: Collection[str], annotated: bool) -> CocoContent:
        """The part with the images of these source ids, with or without their annotations."""
        wanted = set(chosen)
        kept = [
            (image, source_id)
            for image, source_id in zip(self.content["images"], self.source_ids, strict=True)
            if source_id in wanted
        ]
        ids = {image["id"] for image, _ in kept}
        annotations = [
            item
            for item in self.content.get("annotations", [])
            if annotated and item["image_id"] in ids
        ]
        images = [image for image, _ in kept]
        content = {**self.content, "images": images, "annotations": annotations}
        return replace(self, content=content, source_ids=tuple(name for _, name in kept))


def as_coco(name: str, records: Sequence[dict[str, Any]]) -> CocoContent:
    """A labeled dataset in COCO's form.

    A COCO file is taken as it is, with its ids, masks and areas; where image names lead out of its
    image folder, all become relative to a higher one. For other datasets images and
    annotations are numbered from 1 and classes too, in their order; boxes become (x, y, width,
    height), and ``difficult`` is kept as a further entry of an annotation.

    Args:
        name: URI or registered name.
        records: of ``load_one_labeled(name)``.

    Raises:
        SourceError: if a record does not say the size of its image.
    """
    source = coco_file(name)
    if source is None:
        numbered = enumerate(class_names([name]), start=1)
        return content_of(records, [{"id": number, "name": text} for number, text in numbered])
    json_file, root = source
    content = read_json(json_file)
    # Some may be unlabeled.
    ids = {record["image_id"] for record in records}
    listed = (image for image in content["images"] if image["id"] in ids)
    content["images"] = sorted(listed, key=lambda image: image["id"])
    image_root = Path(on_this_machine(str(root)))
    files = [on_this_machine(record["file_name"]) for record in records]
    if not all(Path(file).is_relative_to(image_root) for file in files):
        image_root, _ = relative_names(files)
    for image, file in zip(content["images"], files, strict=True):
        image["file_name"] = Path(file).relative_to(image_root).as_posix()
    names = tuple(str(image["id"]) for image in content["images"])
    return CocoContent(content, image_root, names)


def write_split(
    source: str,
    records: Sequence[NamedRecord],
    split: Split,
    output: Path,
    held_out: Collection[str] = (),
) -> Path:
    """Write the parts of one dataset as COCO files.

    Args:
        source: name or URI of the dataset that the split was made from.
        records: of ``load_named([source])``.
        split: of the images that are not held out; without ``held_out`` it leaves at least one
            image unlabeled.
        output: folder for ``labeled.json``, ``unlabeled.json`` (images and classes, no annotations;
            not written where no image is left for it) and, without ``held_out``, ``split.json``.
        held_out: ids of the images that ``val.json`` gets, with their annotations. No
            ``split.json`` is written beside it: with the dataset as a whole it would make unlabeled
            images of them.

    Returns:
        The folder that the image names of both COCO files are relative to.

    Raises:
        SourceError: if one of the files exists, or no image would be unlabeled.
        FileError: if one cannot be written.
    """
    last = "val" if held_out else "split"
    parts = {name: output / f"{name}.json" for name in ("labeled", "unlabeled", last)}
    for path in parts.values():
        if path.exists():
            raise SourceError(f"{path} exists; choose another folder, or remove it")
    if len(split.labeled_ids) == split.total and not held_out:
        raise SourceError(f"all {split.total} images would be labeled, and none unlabeled")
    content = as_coco(source, [record for _, record in records])
    labeled = {name.partition("/")[2] for name in split.labeled_ids}
    val = {name.partition("/")[2] for name in held_out}
    rest = set(content.source_ids) - labeled - val
    for name, chosen in (("labeled", labeled), ("unlabeled", rest), ("val", val)):
        if chosen:
            part = content.only(chosen, annotated=name != "unlabeled")
            write_text(parts[name], json.dumps(part.content))
    if not held_out:
        split.save(parts["split"])
    return content.image_root


def coco_uri(json_file: Place, image_root: Place, source: str = "") -> str:
    """The URI of a COCO file.

    Args:
        source: the set that it was made from; what its URI says of images without annotations is
            said of the file, too.
    """
    looked_at = is_uri(source) and parse_uri(source).value("empty") == "labeled"
    more = "&empty=labeled" if looked_at else ""
    return f"coco://{encode(json_file)}?images={encode(image_root)}{more}"


def relative_names(files: Sequence[str]) -> tuple[Path, list[str]]:
    """The lowest folder that holds all of these files, and their names relative to it."""
    paths = [on_this_machine(file) for file in files]
    folder = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    return folder, [Path(path).relative_to(folder).as_posix() for path in paths]


def find_shapes(
    content: dict[str, Any], classes: Sequence[str]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The masks and key points of a COCO file, which records do not have, by :func:`shape_key`.

    Args:
        content: what the file holds.
        classes: of the dataset.
    """
    indices = {name: index for index, name in enumerate(classes)}
    names = {category["id"]: category["name"] for category in content.get("categories", [])}
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for item in content.get("annotations", []):
        shapes = {key: item[key] for key in _SHAPES if item.get(key)}
        # Of two equal boxes the first one counts.
        category = indices.get(names[item["category_id"]], -1)
        # A record has either, by whether there is a mask.
        for box in (item["bbox"], turned_box(item)):
            placed = {**item, "bbox": box}
            found.setdefault(shape_key(item["image_id"], category, placed), shapes)
    return found


def shape_key(image_id: Any, category: int, annotation: dict[str, Any]) -> tuple[Any, ...]:
    """What tells the annotations of a COCO file apart: image, index of the class, crowd, box."""
    return image_id, category, is_crowd(annotation), *annotation["bbox"]


def content_of(
    records: Sequence[dict[str, Any]],
    categories: Sequence[dict[str, Any]],
    image_ids: Sequence[int] = (),
) -> CocoContent:
    """Records of any datasets in COCO's form; see :func:`as_coco`.

    Annotations have their own areas and ``SHAPES``, if they have any.

    Args:
        categories: ``id`` and ``name`` of the classes, in the order of their indices.
        image_ids: of the records, all different, by which images are sorted; empty to number them
            from 1.
    """
    root, names = relative_names([record["file_name"] for record in records])
    entries = zip(image_ids or range(1, len(records) + 1), records, names, strict=True)
    rows = sorted(entries, key=lambda row: row[0])
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, record, name in rows:
        width, height = image_size(record)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for item in record["annotations"]:
            x1, y1, x2, y2 = corners(item)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": categories[item["category_id"]]["id"],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": item.get("area", (x2 - x1) * (y2 - y1)),
                "iscrowd": int(is_crowd(item)),
                **item.get(SHAPES, {}),
            }
            if "difficult" in item:
                annotation["difficult"] = int(item["difficult"])
            annotations.append(annotation)
    content = {"images": images, "annotations": annotations, "categories": list(categories)}
    return CocoContent(content, root, tuple(str(record["image_id"]) for _, record, _ in rows))
