"""YOLO's label files without splits: beside images, or in ``labels`` for those in ``images``.

So write LabelImg, Label Studio and supervision, and CVAT and Darknet with ``obj.data``. An image
without a label file is unlabeled here, unlike in a split of Ultralytics.
"""

from __future__ import annotations

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import size_of_image
from dre_ssod.data.sources.names import show_names
from dre_ssod.data.sources.programs.labels import Entry, ImageFiles, Labels, Options, box_of
from dre_ssod.data.sources.programs.yolo_labels import (
    check_class_files,
    label_file,
    labels_alone,
    read_labels,
    to_pixels,
)
from dre_ssod.data.sources.uri import join_inside
from dre_ssod.data.sources.yolo_layout import SPLIT_KEYS, YoloLayout, read_class_file
from dre_ssod.data.text_files import read_lines
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place

DARKNET = "obj.data"


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
        SourceError: if there is no such image, no list of classes or one that contradicts another,
            a file cannot be read, or it is that of two images.
    """
    layout = YoloLayout.read(root, outside=False)
    is_darknet = (root / DARKNET).is_file()
    origin, classes = _class_names(root) if layout.config is None else ("", [])
    if not classes:
        origin, classes = layout.class_list(options.classes)
    if options.classes and list(options.classes) != classes:
        raise SourceError(
            f"{root}: the classes are {show_names(classes)}, but classes= says "
            f"{show_names(options.classes)}; leave classes= out"
        )
    points = layout.point_columns()
    entries: list[Entry] = []
    files = {image: label_file(root / image, root) for image in images.names}
    owners: dict[Place, str] = {}
    if layout.has_names:
        check_class_files(set(files.values()), root, classes, origin)
    for image, path in files.items():
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
    entries += [Entry(str(path), None, None, []) for path in labels_alone(root, owners)]
    return Labels(entries, tuple(classes))


def _class_names(root: Place) -> tuple[str, list[str]]:
    """Without a YAML file: those of ``obj.data``, or of ``classes.txt`` in root or ``labels``.

    Before them, the file.
    """
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
            return str(candidate), names
    return "", []
