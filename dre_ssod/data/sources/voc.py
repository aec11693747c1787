"""PASCAL VOC folders as a data source: ``Annotations``, ``ImageSets/Main``, ``JPEGImages``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import is_hidden, is_image_name, size_of_image
from dre_ssod.data.sources.names import check_class_name, class_index
from dre_ssod.data.sources.programs.shapes import around_turned, number_in
from dre_ssod.data.text_files import read_lines, read_xml
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place


@dataclass(frozen=True)
class VocSource:
    """``voc://ROOT?split=train[&classes=A,B,C][&first_pixel=0]``.

    Attributes:
        name: the name in Detectron2's catalogs.
        root: the folder that holds ``Annotations``, ``ImageSets`` and ``JPEGImages``.
        split: a file name of ``ImageSets/Main`` without ``.txt``.
        chosen_classes: the classes in order; empty to take those of ``labelmap.txt`` or, without
            it, all names found in ``Annotations``, sorted: every split of a root has the same.
        first_pixel: the number of the first pixel in corners: 1, or 0 as some programs count.
    """

    name: str
    root: Place
    split: str
    chosen_classes: tuple[str, ...] = ()
    first_pixel: int = 1

    def classes(self) -> list[str]:
        """Class names in the order of their indices.

        Raises:
            SourceError: if an annotation file that has to be searched for names is not readable.
        """
        if listed := self.chosen_classes or read_label_map(self.root / "labelmap.txt"):
            return list(listed)
        names: set[str] = set()
        found: list[Place] = [*(self.root / "Annotations").glob("*.xml")]
        for path in sorted(found, key=str):
            if not is_hidden(path.name):
                names.update(
                    _class_name(item, path) for item in read_annotation(path).findall("object")
                )
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

        Raises:
            SourceError: if a file is missing or malformed, or an object's class is unknown.
        """
        indices = {name: index for index, name in enumerate(self.classes())}
        records = self.images(remarks)
        for record in records:
            path = self.root / "Annotations" / f"{record['image_id']}.xml"
            tree = read_annotation(path)
            size = size_in(tree, path)
            size = size or size_of_image(record["file_name"], str(path), remarks)
            record["width"], record["height"] = size
            objects = [
                read_object(item, path, self.first_pixel, remarks)
                for item in tree.findall("object")
            ]
            record["annotations"] = [
                {**item, "category_id": class_index(name, indices, str(path))}
                for name, item in objects
            ]
        return records


def is_voc(dataset_name: str) -> bool:
    """Whether a registered dataset is in PASCAL VOC's layout, be it a URI or not."""
    metadata = MetadataCatalog.get(dataset_name)
    return bool(metadata.get("dirname") and metadata.get("split"))


def _find_split(name: str, root: Place, split: str) -> Place:
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not path.is_file():
        valid = sorted(place.stem for place in folder.glob("*.txt") if not is_hidden(place.name))
        raise SourceError(
            f"{name}: no split {split!r}: {path} is missing; valid: {', '.join(valid) or 'none'}"
        )
    return path


def _read_split(name: str, root: Place, split: str) -> list[str]:
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


def _image_files(name: str, root: Place) -> dict[str, Place]:
    """Image files by name without extension."""
    folder = root / "JPEGImages"
    if not folder.is_dir():
        raise SourceError(f"{name}: the folder {folder} is missing")
    files: dict[str, Place] = {}
    found: list[Place] = [*folder.iterdir()]
    for path in sorted(found, key=str):
        if is_image_name(path.name):
            if path.stem in files:
                raise SourceError(
                    f"{name}: two images for {path.stem!r}: {files[path.stem].name} and "
                    f"{path.name} in {folder}; remove one"
                )
            files[path.stem] = path
    return files


def read_annotation(path: Place) -> Element:
    """The <annotation> of a file.

    Raises:
        SourceError: if it is missing, malformed or of another kind.
    """
    if not path.exists():
        raise SourceError(f"{path}: the annotation file is missing")
    root = read_xml(path)
    if root.tag != "annotation":
        raise SourceError(f"{path}: holds no <annotation>, so it is no annotation of PASCAL VOC")
    return root


def read_label_map(path: Place) -> tuple[str, ...]:
    """The classes of a ``labelmap.txt``, as CVAT and Datumaro write it; empty without the file.

    A line is ``name:color:parts:actions``. Their "background" is no class of objects.

    Raises:
        SourceError: if a name is given twice.
    """
    if not path.is_file():
        return ()
    lines = [line.strip() for line in read_lines(path)]
    names = [line.split(":")[0] for line in lines if line and not line.startswith("#")]
    for index, name in enumerate(names):
        check_class_name(name, f"{path}: a class")
        if name in names[:index]:
            raise SourceError(f"{path}: the class {name!r} is given twice")
    return tuple(name for name in names if name != "background")


def read_object(
    item: Element, path: Place, first_pixel: int, remarks: Remarks
) -> tuple[str, dict[str, Any]]:
    """The class of an <object>, and its annotation without ``category_id``.

    The box becomes (x1, y1, x2, y2) in pixels, continuous, from VOC's inclusive corners, which
    count from 1. A box with ``xmax <= xmin`` or ``ymax <= ymin``, which has no area in VOC's terms,
    keeps the corners that the file gives, and so has none here. A box that CVAT has turned becomes
    the one around it.

    Args:
        first_pixel: 1, or 0 for corners that are (x1, y1, x2, y2) in pixels as they stand.
    """
    corners = [_number(item, f"bndbox/{key}", path) for key in ("xmin", "ymin", "xmax", "ymax")]
    difficult = _number(item, "difficult", path, default=0.0)
    if difficult not in (0, 1):
        raise SourceError(f"{path}: <difficult> must be 0 or 1, is {difficult}")
    x1, y1, x2, y2 = corners
    # A box that reaches over the edge may have less.
    if 0 <= min(x1, y1) < first_pixel:
        remarks.add("zero-corner", f"{path}: {x1:g}, {y1:g}")
    if x2 > x1 and y2 > y1:
        x1, y1 = x1 - first_pixel, y1 - first_pixel
        corners = [x1, y1, x2, y2]
        if degrees := _degrees(item):
            corners = [*around_turned(x1, y1, x2 - x1, y2 - y1, degrees, about=(0.5, 0.5))]
    return _class_name(item, path), {
        "bbox": corners,
        "bbox_mode": BoxMode.XYXY_ABS,
        "iscrowd": 0,
        "difficult": int(difficult),
    }


def size_in(tree: Element, path: Place) -> tuple[int, int] | None:
    """(width, height) that an annotation gives; None where it gives none.

    Raises:
        SourceError: if they are no whole numbers.
    """
    width, height = (_number(tree, f"size/{key}", path, default=0.0) for key in ("width", "height"))
    if not (height.is_integer() and width.is_integer() and min(height, width) >= 0):
        raise SourceError(f"{path}: <size> must have whole numbers, has {width} x {height}")
    return (int(width), int(height)) if height and width else None


def _degrees(item: Element) -> float:
    """The angle of an object, which CVAT writes among its attributes; 0 where there is none."""
    for attribute in item.iterfind("attributes/attribute"):
        if attribute.findtext("name") == "rotation":
            try:
                degrees = float(attribute.findtext("value") or 0)
            except ValueError:
                return 0.0
            return degrees if math.isfinite(degrees) else 0.0
    return 0.0


def _class_name(item: Element, path: Place) -> str:
    return check_class_name((item.findtext("name") or "").strip(), f"{path}: an object")


def _number(item: Element, tag: str, path: Place, default: float | None = None) -> float:
    text = item.findtext(tag)
    if text is None and default is not None:
        return default
    return number_in(text, f"{path}: <{tag}>", finite=False)
