"""PASCAL VOC folders as a data source: ``Annotations``, ``ImageSets/Main``, ``JPEGImages``."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring as parse_xml
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from dre_ssod.data.images import ImageError, read_header
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import is_hidden, is_image_name
from dre_ssod.data.sources.names import check_class_name, show_names
from dre_ssod.data.text_files import read_bytes, read_lines
from dre_ssod.errors import SourceError

_show = reprlib.repr


@dataclass(frozen=True)
class VocSource:
    """``voc://ROOT?split=train[&classes=A,B,C]``.

    Attributes:
        name: the name in Detectron2's catalogs.
        root: the folder that holds ``Annotations``, ``ImageSets`` and ``JPEGImages``.
        split: a file name of ``ImageSets/Main`` without ``.txt``.
        chosen_classes: the classes in order; empty to take all names found in ``Annotations``,
            sorted, which gives every split of a root the same classes.
    """

    name: str
    root: Path
    split: str
    chosen_classes: tuple[str, ...] = ()

    def classes(self) -> list[str]:
        """Class names in the order of their indices.

        Raises:
            SourceError: if an annotation file that has to be searched for names is not readable.
        """
        if self.chosen_classes:
            return list(self.chosen_classes)
        names: set[str] = set()
        for path in sorted((self.root / "Annotations").glob("*.xml")):
            if not is_hidden(path.name):
                names.update(_class_name(item, path) for item in _read_xml(path).findall("object"))
        return sorted(names)

    def metadata(self) -> dict[str, Any]:
        """What Detectron2's VOC evaluator reads; without ``json_file``, since there is none."""
        _find_split(self.name, self.root, self.split)
        return {
            "thing_classes": self.classes(),
            "dirname": str(self.root),
            "split": self.split,
            "year": 2007 if "2007" in str(self.root) else 2012,
            "evaluator_type": "coco",
        }

    def images(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records of the split's images in its order; ``Annotations`` is not opened.

        Raises:
            SourceError: if the split or one of its images is missing.
        """
        files = _image_files(self.name, self.root)
        records = []
        for image_id in _read_split(self.name, self.root, self.split):
            if image_id not in files:
                raise SourceError(
                    f"{self.name}: no image for {image_id!r}, which {self.split}.txt lists, in "
                    f"{self.root / 'JPEGImages'}"
                )
            records.append({"file_name": str(files[image_id]), "image_id": image_id})
        return records

    def labeled(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records in Detectron2's format, with ``difficult`` (0 or 1) in every annotation.

        Boxes become (x1, y1, x2, y2) in pixels, continuous, from VOC's 1-based inclusive corners.
        A box with ``xmax <= xmin`` or ``ymax <= ymin``, which has no area in VOC's terms, keeps the
        corners that the file gives, and so has none here.

        Raises:
            SourceError: if a file is missing or malformed, or an object's class is unknown.
        """
        indices = {name: index for index, name in enumerate(self.classes())}
        records = self.images(remarks)
        for record in records:
            path = self.root / "Annotations" / f"{record['image_id']}.xml"
            tree = _read_xml(path)
            record["height"], record["width"] = _image_size(tree, path, record["file_name"])
            record["annotations"] = [
                _read_object(item, path, indices) for item in tree.findall("object")
            ]
        return records


def is_voc(dataset_name: str) -> bool:
    """Whether a registered dataset is in PASCAL VOC's layout, be it a URI or not."""
    metadata = MetadataCatalog.get(dataset_name)
    return bool(metadata.get("dirname") and metadata.get("split"))


def _find_split(name: str, root: Path, split: str) -> Path:
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not path.is_file():
        valid = sorted(place.stem for place in folder.glob("*.txt") if not is_hidden(place.name))
        raise SourceError(
            f"{name}: no split {split!r}: {path} is missing; valid: {', '.join(valid) or 'none'}"
        )
    return path


def _read_split(name: str, root: Path, split: str) -> list[str]:
    path = _find_split(name, root, split)
    ids = [line.strip() for line in read_lines(path) if line.strip()]
    if not ids:
        raise SourceError(f"{name}: {path} lists no image")
    seen = set()
    for image_id in ids:
        if image_id in seen:
            raise SourceError(f"{path}: {image_id!r} is listed twice")
        seen.add(image_id)
    return ids


def _image_files(name: str, root: Path) -> dict[str, Path]:
    """Image files by name without extension."""
    folder = root / "JPEGImages"
    if not folder.is_dir():
        raise SourceError(f"{name}: the folder {folder} is missing")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image_name(path.name):
            if path.stem in files:
                raise SourceError(
                    f"{name}: two images for {path.stem!r}: {files[path.stem].name} and "
                    f"{path.name} in {folder}; remove one"
                )
            files[path.stem] = path
    return files


def _read_xml(path: Path) -> Element:
    if not path.exists():
        raise SourceError(f"{path}: the annotation file is missing")
    content = read_bytes(path)
    try:
        root = parse_xml(content)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise SourceError(f"{path}: cannot be read as XML: {error}") from error
    if not isinstance(root, Element) or root.tag != "annotation":
        raise SourceError(f"{path}: holds no <annotation>, so it is no annotation of PASCAL VOC")
    return root


def _class_name(item: Element, path: Path) -> str:
    return check_class_name((item.findtext("name") or "").strip(), f"{path}: an object")


def _read_object(item: Element, path: Path, indices: dict[str, int]) -> dict[str, Any]:
    name = _class_name(item, path)
    if name not in indices:
        raise SourceError(
            f"{path}: unknown class {name!r}; valid: {show_names([*indices])}. Name every class of "
            "the set in classes=, or leave classes= out"
        )
    corners = [_number(item, f"bndbox/{key}", path) for key in ("xmin", "ymin", "xmax", "ymax")]
    difficult = _number(item, "difficult", path, default=0.0)
    if difficult not in (0, 1):
        raise SourceError(f"{path}: <difficult> must be 0 or 1, is {difficult}")
    x1, y1, x2, y2 = corners
    return {
        "bbox": [x1 - 1.0, y1 - 1.0, x2, y2] if x2 > x1 and y2 > y1 else corners,
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": indices[name],
        "iscrowd": 0,
        "difficult": int(difficult),
    }


def _number(item: Element, tag: str, path: Path, default: float | None = None) -> float:
    text = item.findtext(tag)
    if text is None and default is not None:
        return default
    try:
        # Python takes 1_0 for a number.
        return float((text or "").replace("_", "?"))
    except ValueError as error:
        raise SourceError(f"{path}: <{tag}> must be a number, is {_show(text)}") from error


def _image_size(tree: Element, path: Path, file_name: str) -> tuple[int, int]:
    """(height, width) from the annotation, or from the image's header where it gives none."""
    height, width = (_number(tree, f"size/{key}", path, default=0.0) for key in ("height", "width"))
    if not (height.is_integer() and width.is_integer() and min(height, width) >= 0):
        raise SourceError(f"{path}: <size> must have whole numbers, has {width} x {height}")
    if height and width:
        return int(height), int(width)
    try:
        header = read_header(file_name)
    except ImageError as error:
        raise SourceError(f"{path}: gives no image size; nor does the image: {error}") from error
    return header.height, header.width
