"""Dataset names and URIs to records in Detectron2's format.

Every name in ``DATASETS.TRAIN``, ``DATASETS.UNLABELED`` and ``DATASETS.TEST`` is a dataset that is
registered with Detectron2, or a URI (``uri.URI_FORMS``), which is registered on first use.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from dre_ssod.data.records import join
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.names import check_class_name, looks_like_another, show_names
from dre_ssod.data.sources.opening import Source, open_source
from dre_ssod.data.sources.registered import check_images, check_labeled
from dre_ssod.data.sources.shards import ShardRecords
from dre_ssod.data.sources.uri import (
    URI_FORMS,
    datasets_root,
    is_uri,
)
from dre_ssod.data.usable import remark_if_many_are_empty, usable_records
from dre_ssod.errors import SourceError

UNLABELED_KEYS = ("file_name", "image_id", "height", "width")
"""All that a record of an unlabeled image may hold."""

NamedRecord = tuple[str, dict[str, Any]]
"""The id that splits know an image by, and its record with annotations."""


_registered: dict[str, tuple[Source, list[tuple[int, int]]]] = {}
"""Sources by URI, and what :func:`_state` said of each when its classes were read."""


def ensure_registered(name: str) -> str:
    """Enter a URI into Detectron2's catalogs on first use, which reads its classes; returns it.

    A name that is registered already is only looked up.

    Metadata of a labeled URI has ``thing_classes`` and ``evaluator_type`` "coco". None has a
    ``json_file``: evaluators convert the records, which are what training and evaluation share.

    Raises:
        SourceError: if ``name`` is neither registered nor a URI that can be read.
    """
    if is_uri(name):
        source = open_source(name)
        known = (source, _state(source))
        if _registered.get(name) != known or name not in DatasetCatalog:
            metadata = source.metadata()
            for catalog in (DatasetCatalog, MetadataCatalog):
                catalog.pop(name, None)
            DatasetCatalog.register(name, partial(load_one_labeled, name))
            MetadataCatalog.get(name).set(**metadata)
            _registered[name] = known
        return name
    if name in DatasetCatalog:
        return name
    close = get_close_matches(name, DatasetCatalog.list(), n=4)
    hint = f"; close names: {', '.join(close)}" if close else ""
    raise SourceError(
        f"{name!r} is not a dataset that is registered with Detectron2{hint}. "
        f"Your own data go by URI: {', '.join(URI_FORMS.values())}"
    )


def _state(source: Source) -> list[tuple[int, int]]:
    """Time and size of the files that a source names, whose classes may change with them."""
    places = [place for place in vars(source).values() if isinstance(place, Path)]
    return [(s.st_mtime_ns, s.st_size) for s in (p.stat() for p in places if p.is_file())]


def class_names(names: Sequence[str]) -> list[str]:
    """The classes that all these labeled datasets share, in the order of their indices.

    Raises:
        SourceError: if a dataset has no classes, or two differ in names or order.
    """
    classes: list[str] | None = None
    for name in map(ensure_registered, names):
        own = _own_classes(name)
        if classes is not None and own != classes:
            raise SourceError(
                f"the classes of {names[0]} and {name} differ: {_difference(classes, own)}. "
                "Labeled sets must have the same classes in the same order; "
                "voc:// takes them from classes="
            )
        classes = own
    if classes is None:
        raise SourceError("no labeled dataset is named; set DATASETS.TRAIN")
    return classes


def load_one_labeled(name: str, remarks: Remarks | None = None) -> list[dict[str, Any]]:
    """Records of one dataset, each with ``annotations``: the objects that count, and no others.

    Args:
        remarks: gets what was left out or is odd; None to have it logged.

    Raises:
        SourceError: if its files are missing or cannot be read, or its records cannot be used.
    """
    name = ensure_registered(name)
    found = Remarks() if remarks is None else remarks
    if is_uri(name):
        records = _registered[name][0].labeled(found)
        classes = MetadataCatalog.get(name).get("thing_classes", [])
    else:
        _check_registered_files(name)
        classes = _own_classes(name)
        records = check_labeled(name, DatasetCatalog.get(name), classes)
        if MetadataCatalog.get(name).get("evaluator_type") == "coco":
            remark_if_many_are_empty(records, found)
    for text in filter(looks_like_another, classes):
        found.add("odd-name", repr(text))
    for text in _alike(classes):
        found.add("alike-names", text)
    records = usable_records(name, records, found)
    if remarks is None:
        found.log(name)
    return records


def load_named(names: Sequence[str]) -> list[NamedRecord]:
    """The records of labeled datasets, one after the other, by the id that splits know them by.

    That is ``"{number of the set}/{image id}"``.

    Raises:
        SourceError: if a set cannot be read.
    """
    return [
        (f"{index}/{record['image_id']}", record)
        for index, name in enumerate(names)
        for record in load_one_labeled(name)
    ]


def load_unlabeled(
    names: Sequence[str], remarks: Remarks | None = None
) -> Sequence[dict[str, Any]]:
    """Records with ``UNLABELED_KEYS`` only, of all the datasets, one after the other.

    Those of shards are made when they are asked for; all others are in memory.

    The annotations of a URI are not read at all.

    Args:
        remarks: gets what was passed over; None to have it logged.

    Raises:
        SourceError: if a dataset is unknown or its files are missing.
    """
    parts: list[Sequence[dict[str, Any]]] = []
    for name in names:
        found = Remarks() if remarks is None else remarks
        if is_uri(name):
            images = open_source(name).images(found)
            parts.append(images if isinstance(images, ShardRecords) else strip_labels(images))
        else:
            _check_registered_files(ensure_registered(name))
            parts.append(strip_labels(check_images(name, DatasetCatalog.get(name))))
        if remarks is None:
            found.log(name)
    return parts[0] if len(parts) == 1 else join(parts)


def strip_labels(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """New records that hold ``UNLABELED_KEYS`` and nothing else."""
    return [{key: record[key] for key in UNLABELED_KEYS if key in record} for record in records]


def _alike(classes: Sequence[str]) -> Iterator[str]:
    """Classes that are one but for case, outer spaces or the Unicode form of their letters."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        spellings[unicodedata.normalize("NFC", name).strip().casefold()].append(name)
    for names in spellings.values():
        if len(names) > 1:
            # Two Unicode forms of one name are shown alike.
            looks = {unicodedata.normalize("NFC", name) for name in names}
            yield " and ".join(map(repr if len(looks) == len(names) else ascii, names))


def _own_classes(name: str) -> list[str]:
    """The classes of one registered dataset, in the order of their indices.

    Raises:
        SourceError: if it has none.
    """
    if not is_uri(name) and not MetadataCatalog.get(name).get("thing_classes"):
        # Detectron2's register_coco_instances knows them once it has read the file.
        _check_registered_files(name)
        DatasetCatalog.get(name)
    classes = list(MetadataCatalog.get(name).get("thing_classes", []))
    if not classes:
        raise SourceError(
            f"{name}: has no classes, so it cannot be used as labeled data; "
            "name it in DATASETS.UNLABELED, or give annotations with classes"
        )
    return [check_class_name(text, f"{name}: a class") for text in classes]


def _check_registered_files(name: str) -> None:
    """Raise a SourceError if files that a registered dataset's metadata names are missing.

    The ``json_file`` of a set that has a ``dirname`` is an evaluator's cache, not its data.
    """
    metadata = MetadataCatalog.get(name)
    for key in ("dirname",) if metadata.get("dirname") else ("json_file", "image_root"):
        path = metadata.get(key)
        if path is not None and "://" not in path and not Path(path).exists():
            raise SourceError(
                f"{name}: {path} is missing. Detectron2 reads $DETECTRON2_DATASETS (now "
                f"{datasets_root()}) when it is imported: set it before the program starts, or "
                "name the data by URI"
            )


def _difference(first: list[str], second: list[str]) -> str:
    only_first = [name for name in first if name not in second]
    only_second = [name for name in second if name not in first]
    if not only_first and not only_second:
        return f"the order is {show_names(first)} against {show_names(second)}"
    return (
        f"only the first has {show_names(only_first)}; only the second has "
        f"{show_names(only_second)}"
    )
