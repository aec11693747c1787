"""YOLO's label files without splits: beside images, or in ``labels`` for those in ``images``.

So write LabelImg, Label Studio and supervision, and CVAT and Darknet with ``obj.data``. An image
without a label file is unlabeled here, unlike in a split of Ultralytics.
"""

from __future__ import annotations

import re
from pathlib import Path

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import list_files, size_of_image
from dre_ssod.data.sources.names import show_names
from dre_ssod.data.sources.programs.labels import Entry, ImageFiles, Labels, Options, box_of
from dre_ssod.data.sources.uri import join_inside
from dre_ssod.data.sources.yolo import label_file, read_labels, to_pixels
from dre_ssod.data.sources.yolo_layout import SPLIT_KEYS, YoloLayout, read_class_file
from dre_ssod.data.text_files import read_lines
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place

DARKNET = "obj.data"
_LABEL = re.compile(r"[-+.\deE]+( [-+.\deE]+){4,}")
"""What a line of labels looks like: a class and four numbers or more."""
_NO_LABELS = ("classes.txt", "train.txt", "valid.txt", "val.txt", "test.txt", "notes.txt")


def has_splits(place: Place) -> bool:
    """Whether a YOLO dataset, a folder or a YAML file, says which images are for what."""
    layout = YoloLayout.read(place, outside=False)
    if layout.config is not None:
        return any(layout.content.get(key) is not None for key in SPLIT_KEYS)
    folders = (place / "images", *(place / split for split in SPLIT_KEYS))
    split_folders = [folder / split for folder in folders[:1] for split in SPLIT_KEYS]
    split_folders += [folder / "images" for folder in folders[1:]]
    return any(folder.is_dir() for folder in split_folders)


def read_yolo_files(root: Place, images: ImageFiles, options: Options, remarks: Remarks) -> Labels:
    """Labels of all images under ``root`` that have a label file.

    With ``obj.data``, whose writers give every image a file, an empty one is that of an unlabeled
    image unless the options say otherwise.

    Raises:
        SourceError: if there is no such image, no list of classes, a file cannot be read, or it is
            that of two images.
    """
    layout = YoloLayout.read(root, outside=False)
    is_darknet = (root / DARKNET).is_file()
    found = _class_names(root) if layout.config is None else ()
    classes = found or tuple(layout.classes(options.classes))
    if options.classes and options.classes != classes:
        raise SourceError(
            f"{root}: the classes are {show_names(classes)}, but classes= says "
            f"{show_names(options.classes)}; leave classes= out"
        )
    points = layout.point_columns()
    entries: list[Entry] = []
    owners: dict[Place, str] = {}
    for image in images.names:
        path = label_file(root / image, root)
        other = owners.setdefault(path, image)
        if not path.is_file():
            continue
        if other != image:
            raise SourceError(f"{path}: belongs to two images, {other} and {image}; rename one")
        boxes = read_labels(path, len(classes), points, remarks)
        if boxes or options.empty_is_labeled or not is_darknet:
            size = size_of_image(str(root / image), str(path), remarks)
            objects = [(classes[index], box_of(to_pixels(box, *size))) for index, box in boxes]
            entries.append(Entry(str(path), image, size, objects))
        else:
            remarks.add("undrawn-image", str(path))
    if not entries:
        raise SourceError(
            f"{root}: none of its {len(images.names)} images has a label file, beside it or in "
            "'labels' where it is in 'images'"
        )
    for name in list_files(root, (".txt",)):
        path = root / name
        if path not in owners and Path(name).name not in _NO_LABELS and _may_be_labels(path):
            entries.append(Entry(str(path), None, None, []))
    return Labels(entries, classes)


def _may_be_labels(path: Place) -> bool:
    """Whether a text without an image is a lost image's, not a README or a list of files.

    It is empty, is no text at all, or has a line of numbers.
    """
    try:
        lines = [line.split() for line in read_lines(path) if line.strip()]
    except SourceError:
        return True
    return not lines or any(_LABEL.fullmatch(" ".join(fields)) for fields in lines)


def _class_names(root: Place) -> tuple[str, ...]:
    """Without a YAML file: those of ``obj.data``, or of ``classes.txt`` in root or ``labels``."""
    path = root / "obj.names"
    if (root / DARKNET).is_file():
        pairs = (line.partition("=") for line in read_lines(root / DARKNET))
        content = {key.strip(): value.strip() for key, _, value in pairs}
        if name := content.get("names"):
            where = f"{root / DARKNET}: names"
            path = join_inside(root, name, root, where)
            if not path.is_file():
                # The folder "data" is Darknet's own, in which the dataset is to be put.
                path = join_inside(root, name.removeprefix("data/"), root, where)
    for candidate in (path, root / "classes.txt", root / "labels" / "classes.txt"):
        if names := read_class_file(candidate):
            return tuple(names)
    return ()
