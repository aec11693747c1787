"""From a URI to the source that it names: which layout, which keys, which files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.data.sources.folder import FolderSource
from dre_ssod.data.sources.programs.cvat import read_cvat
from dre_ssod.data.sources.programs.label_studio import read_label_studio
from dre_ssod.data.sources.programs.labelme import read_labelme
from dre_ssod.data.sources.programs.labels import Options, ProgramSource, Reader
from dre_ssod.data.sources.programs.via import read_via
from dre_ssod.data.sources.programs.voc_files import read_voc_files
from dre_ssod.data.sources.programs.yolo_files import has_splits, read_yolo_files
from dre_ssod.data.sources.shards import ShardSource
from dre_ssod.data.sources.shards.patterns import find_shards
from dre_ssod.data.sources.uri import (
    DatasetURI,
    datasets_root,
    find_any,
    find_file,
    find_folder,
    parse_uri,
)
from dre_ssod.data.sources.voc import VocSource
from dre_ssod.data.sources.yolo import YoloSource
from dre_ssod.errors import SourceError
from dre_ssod.stores import StorePath


class Source(Protocol):
    """Where records come from; two sources are equal if they read the same files."""

    def metadata(self) -> dict[str, Any]:
        """Entries for ``MetadataCatalog``."""

    def labeled(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records with ``annotations`` as the files have them; what is odd goes to ``remarks``."""

    def images(self, remarks: Remarks) -> Sequence[dict[str, Any]]:
        """Records without labels, made without looking at any label."""


PROGRAMS: dict[str, tuple[Reader, tuple[str, ...]]] = {
    "labelstudio": (read_label_studio, ()),
    "cvat": (read_cvat, ("empty",)),
    "labelme": (read_labelme, ()),
    "via": (read_via, ("attribute", "empty")),
}
"""What reads the file of a labeling program, and the further keys of its URI, by scheme."""
EMPTY = ("unlabeled", "labeled")
"""What images can be that a file lists without any object."""


def open_source(name: str) -> Source:
    """The source that a URI names; its files are found, not yet read.

    Raises:
        SourceError: if the URI is malformed or what it names is missing.
    """
    uri = parse_uri(name)
    if uri.scheme == "coco":
        uri.allow(required=["images"], optional=["empty", "outside"])
        outside = uri.allows_outside()
        empty = uri.one_of("empty", EMPTY) if "empty" in uri.query else ""
        annotations = find_file(uri.path, uri)
        return CocoSource(name, annotations, find_folder(uri.value("images"), uri), outside, empty)
    if uri.scheme == "voc":
        return _voc_source(uri)
    if uri.scheme == "yolo":
        return _yolo_source(uri)
    if uri.scheme in PROGRAMS:
        return _program_source(uri, *PROGRAMS[uri.scheme])
    if uri.scheme == "folder":
        uri.allow()
        return FolderSource(name, find_folder(uri.path, uri))
    if uri.scheme == "shards":
        uri.allow(optional=["classes"])
        return ShardSource(name, tuple(find_shards(uri)), uri.class_list())
    return _sample_source(uri)


def _program_source(uri: DatasetURI, read: Reader, more: Sequence[str]) -> Source:
    # LabelMe's labels are a folder, and lie beside their images unless somebody has moved them.
    is_folder = read is read_labelme
    required, optional = ([], ["images"]) if is_folder else (["images"], [])
    uri.allow(required, [*optional, "classes", *more])
    options = Options(
        classes=uri.class_list(),
        empty_is_labeled=uri.one_of("empty", EMPTY) == "labeled",
        attribute=uri.value("attribute"),
    )
    labels = find_folder(uri.path, uri) if is_folder else find_file(uri.path, uri)
    folder = find_folder(uri.value("images", uri.path), uri)
    return ProgramSource(uri.text, read, labels, folder, options)


def _voc_source(uri: DatasetURI) -> Source:
    uri.allow(optional=["split", "annotations", "classes", "first_pixel"])
    root = find_folder(uri.path, uri)
    classes, first = uri.class_list(), int(uri.one_of("first_pixel", ("1", "0")))
    # Whoever has splits must say which one.
    if "split" in uri.query or (root / "ImageSets" / "Main").is_dir():
        uri.allow(required=["split"], optional=["classes", "first_pixel"])
        return VocSource(uri.text, root, uri.value("split"), classes, first)
    folder = find_folder(uri.value("annotations"), uri) if "annotations" in uri.query else root
    options = Options(classes, first_pixel=first)
    return ProgramSource(uri.text, read_voc_files, folder, root, options)


def _yolo_source(uri: DatasetURI) -> Source:
    uri.allow(optional=["split", "classes", "outside", "empty"])
    place, classes = find_any(uri.path, uri), uri.class_list()
    # Whoever has splits must say which one.
    if "split" in uri.query or has_splits(place):
        uri.allow(required=["split"], optional=["classes", "outside"])
        return YoloSource(uri.text, place, uri.value("split"), classes, uri.allows_outside())
    uri.allow(optional=["classes", "empty"])
    root = place if place.is_dir() else place.parent
    looked_at = uri.one_of("empty", EMPTY) == "labeled"
    return ProgramSource(uri.text, read_yolo_files, place, root, Options(classes, looked_at))


def _sample_source(uri: DatasetURI) -> Source:
    from dre_ssod.data.sample.dataset import ensure_sample_set  # slow, and rarely used

    uri.allow(optional=["seed"])
    parts = ("labeled", "unlabeled", "val")
    if uri.path not in parts:
        raise SourceError(f"{uri.text}: unknown part {uri.path!r}; valid: {', '.join(parts)}")
    seed_text = uri.value("seed", "0")
    if not (seed_text.isascii() and seed_text.isdigit()):
        raise SourceError(f"{uri.text}: seed must be an integer from 0, is {seed_text!r}")
    seed = int(seed_text)
    folder = "dre_ssod_sample" if seed == 0 else f"dre_ssod_sample_seed{seed}"
    root = (datasets_root() / folder).absolute()
    if isinstance(root, StorePath):
        raise SourceError(
            f"{uri.text}: the sample set is generated, and not into a store: set "
            "$DETECTRON2_DATASETS to a folder of this machine"
        )
    try:
        ensure_sample_set(root, seed)
    except OSError as error:
        raise SourceError(
            f"{uri.text}: the sample set cannot be generated in {root}: {error}. Set "
            "$DETECTRON2_DATASETS to a folder that can be written to"
        ) from error
    if uri.path == "unlabeled":
        return FolderSource(uri.text, root / "unlabeled")
    return CocoSource(uri.text, root / "annotations" / f"{uri.path}.json", root / uri.path)
