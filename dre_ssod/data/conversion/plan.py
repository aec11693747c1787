"""What a form makes of the parts of a dataset, before anything is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dre_ssod.data.records import is_crowd
from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.data.sources.folder import is_image_name
from dre_ssod.data.sources.opening import open_source
from dre_ssod.data.sources.truth import registered_coco_file
from dre_ssod.data.sources.uri import is_uri
from dre_ssod.data.text_files import read_json
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place, is_address, is_piece

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class Converted:
    """A dataset that was written.

    Attributes:
        split: its part of the new dataset: "train", "val" or "test".
        uri: what it is read by.
        images, boxes: how many were written.
        lost: what the form has no place for, and how many boxes that concerns.
    """

    split: str
    uri: str
    images: int = 0
    boxes: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def lose(self, what: str) -> None:
        """Count a box that lost something, or was lost."""
        self.lost[what] = self.lost.get(what, 0) + 1


@dataclass(frozen=True)
class Part:
    """A dataset to be written: its part of the new one, its name, its records."""

    split: str
    name: str
    records: list[dict[str, Any]]

    @property
    def files(self) -> list[str]:
        """The images."""
        return [on_this_machine(record["file_name"]) for record in self.records]

    def start(self, uri: str, scores: bool = False) -> Converted:
        """Its result before a box is written: what objects have besides their box is lost.

        Args:
            scores: whether the form has a place for them.
        """
        dropped = sum(len(record.get("dropped_boxes", ())) for record in self.records)
        lost = {"objects left out that do not count: see the warnings above": dropped}
        result = Converted(self.split, uri, len(self.records), lost=lost if dropped else {})
        for item in self._objects():
            if item.get("segmentation"):
                result.lose("masks left out: sizes of objects go by their boxes")
            if item.get("num_keypoints", item.get("keypoints")):
                result.lose("sets of key points left out: the form has no place for them")
            if item.get("score") is not None and not scores:
                result.lose("scores left out: the form has no place for them")
        return result

    def _objects(self) -> list[dict[str, Any]]:
        """All but crowds, with their masks: records of a COCO file have none, but the file has."""
        source = coco_file(self.name)
        items = (item for record in self.records for item in record["annotations"])
        if source is not None:
            items = iter(read_json(source[0]).get("annotations", []))
        return [item for item in items if not is_crowd(item)]


@dataclass
class Plan:
    """What is to be written. Names are relative to the output.

    Attributes:
        results: one per part.
        texts: the text files.
        pictures: the image that each image file is made from.
    """

    results: list[Converted] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)


def coco_file(name: str) -> tuple[Place, Place] | None:
    """JSON file and image folder of a dataset that is a COCO file, else None."""
    if not is_uri(name):
        return registered_coco_file(name)
    source = open_source(name)
    return (source.json_file, source.image_root) if isinstance(source, CocoSource) else None


def check_xml_names(classes: Iterable[str], program: str) -> None:
    """Check that XML can hold the names of classes as they are.

    Raises:
        SourceError: if not.
    """
    for text in classes:
        if text != text.strip() or not is_xml(text):
            raise SourceError(f"the class {text!r} cannot be written as {program}: rename it")


def is_xml(text: str) -> bool:
    """Whether XML has all the characters of a text."""
    return not _NOT_XML.search(text)


def on_this_machine(file: str) -> str:
    """The absolute path of an image.

    Raises:
        SourceError: if it is in a store or a shard: what is written here names and links files.
    """
    if is_address(file) or is_piece(file):
        raise SourceError(
            f"{file}: is in a store or a shard; datasets are converted and split on one machine: "
            "copy the set to a folder first"
        )
    return os.path.abspath(file)


def different_names(files: Sequence[str]) -> list[str]:
    """File names that differ without their extensions; numbered where the files' own do not.

    None is "classes": among YOLO's labels that is the list of classes.

    Raises:
        SourceError: for a file that would not be taken as an image.
    """
    names = [os.path.basename(file) for file in files]
    for name, file in zip(names, files, strict=True):
        if not is_image_name(name.lstrip(".")):
            raise SourceError(
                f"{file}: YOLO and VOC folders do not take this extension: convert it"
            )
    # Some file systems take upper and lower case for the same.
    stems = {Path(name).stem.lower() for name in names}
    is_usable = "classes" not in stems and not any(name.startswith(".") for name in names)
    if len(stems) == len(names) and is_usable:
        return names
    digits = len(str(len(names)))
    return [f"{index:0{digits}}_{name}" for index, name in enumerate(names, start=1)]


def names_in_order(files: Sequence[str]) -> list[str]:
    """Different file names that stand in the order of the files when they are sorted."""
    names = different_names(files)
    if names == sorted(names) == sorted(names, key=lambda text: Path(text).stem):
        return names
    digits = len(str(len(names)))
    own = [os.path.basename(file) for file in files]
    return [f"{index:0{digits}}_{text}" for index, text in enumerate(own, start=1)]
