"""``shards://PATTERN``: a set whose images lie in tar files."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.names import check_class_name, class_index
from dre_ssod.data.sources.shards.index import open_index
from dre_ssod.data.sources.shards.labels import read_labels
from dre_ssod.data.sources.shards.patterns import look_at, root_of
from dre_ssod.data.sources.shards.records import ShardRecords
from dre_ssod.data.text_files import read_lines
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place

CLASSES_FILE = "classes.txt"
"""Beside the first shard: the classes in order, one per line."""


@dataclass(frozen=True)
class ShardSource:
    """``shards://PATTERN[?classes=A,B,C]``; images with a JSON file beside them are labeled.

    Attributes:
        name: the name in Detectron2's catalogs.
        places: of the shards, in order.
        classes: in order; empty to take them from ``CLASSES_FILE``, or else all that the labels
            name, sorted.
    """

    name: str
    places: tuple[Place, ...]
    classes: tuple[str, ...] = ()

    def metadata(self) -> dict[str, Any]:
        """The classes; none where no image has a label."""
        classes = self._listed() or self._named(self._labeled(Remarks()))
        return {"thing_classes": list(classes), "evaluator_type": "coco"} if classes else {}

    def images(self, remarks: Remarks) -> ShardRecords:
        """All images, labeled or not; no label is looked at.

        What cannot be read of damaged shards is missing: see :attr:`ShardRecords.lost`.

        Raises:
            SourceError: if there is no image, or a shard is not there.
        """
        return self._records(remarks)[0]

    def labeled(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records of the images that have a label.

        Raises:
            SourceError: if there is none, a shard is damaged, or a label does not fit.
        """
        records = self._labeled(remarks)
        if not records:
            raise SourceError(
                f"{self.name}: no image has a JSON file beside it, so none is labeled; name the "
                "shards in DATASETS.UNLABELED, or pack them with tools/pack_images.py --labels"
            )
        indices = {name: i for i, name in enumerate(self._listed() or self._named(records))}
        for record in records:
            for item in record["annotations"]:
                where = f"{self.name}: {record['image_id']}"
                item["category_id"] = class_index(item.pop("class"), indices, where)
        return records

    def _records(
        self, remarks: Remarks, with_labels: bool = False
    ) -> tuple[ShardRecords, list[str]]:
        """The images, and what is wrong with shards; remarks on labels only where these count."""
        shards = look_at(self.name, self.places)
        index = open_index(shards, root_of(self.places))
        problems = []
        for entry, place in zip(index.entries, self.places, strict=True):
            if entry.problem:
                problems.append(f"{place}: {entry.problem}")
                remarks.add("broken-shard", problems[-1])
            for kind, text in entry.passed_over:
                if with_labels or kind != "labels-alone":
                    remarks.add(kind, f"{place}: {text}")
        if not len(index):
            passed_over = (remarks.items.get(kind, ()) for kind in ("other-picture", "hidden-file"))
            why = [*problems, *itertools.chain.from_iterable(passed_over)]
            raise SourceError(
                f"{self.name}: no image in {len(shards)} shard(s)"
                f"{f'; the first of what was passed over: {why[0]}' if why else ''}. Names are "
                "taken as WebDataset does: NAME.jpg, with a dot before the extension alone"
            )
        return ShardRecords(index, shards), problems

    def _labeled(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records with the ``class`` of each object by its name."""
        images, problems = self._records(remarks, with_labels=True)
        if problems:
            raise SourceError(
                f"{self.name}: {len(problems)} shard(s) of a labeled set cannot be used, the "
                f"first: {problems[0]}; pack the images again"
            )
        records, pieces = [], []
        for number, record in enumerate(images):
            if (piece := images.label(number)) is None:
                remarks.add("unlabeled-image", record["image_id"])
            else:
                records.append(record)
                pieces.append(piece)
        return [r | label for r, label in zip(records, read_labels(pieces), strict=True)]

    def _listed(self) -> tuple[str, ...]:
        """Classes that are stated in their order, if they are."""
        path = self.places[0].parent / CLASSES_FILE
        if self.classes or not path.is_file():
            return self.classes
        names = [line for line in read_lines(path) if line]
        if len(set(names)) < len(names):
            raise SourceError(f"{path}: names a class twice")
        return tuple(check_class_name(name, f"{path}: a class") for name in names)

    @staticmethod
    def _named(records: list[dict[str, Any]]) -> tuple[str, ...]:
        """All the classes that labels name, sorted."""
        return tuple(sorted({item["class"] for r in records for item in r["annotations"]}))
