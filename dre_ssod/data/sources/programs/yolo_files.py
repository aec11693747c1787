"""YOLO's label files without splits: beside images, or in ``labels`` for those in ``images``.

So write LabelImg, Label Studio and supervision, and CVAT and Darknet with ``obj.data``. An image
without a label file is unlabeled here, unlike in a split of Ultralytics.
"""

from __future__ import annotations

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import size_of_image
from dre_ssod.data.sources.names import show_names
from dre_ssod.data.sources.programs.labels import (
    Entry,
    ImageFiles,
    Labels,
    Options,
    box_of,
    remark_on_subsets,
)
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
_DARKNET_SPLITS = ("train", "valid", "test")


def has_splits(place: Place) -> bool:
    """Whether a YOLO dataset, a folder or a YAML file, says which images are for what."""
    layout = YoloLayout.read(place, outside=False)
    if layout.config is not None:
        return any(layout.content.get(key) is not None for key in SPLIT_KEYS)
    folders = (place / "images", *(place / split for split in SPLIT_KEYS))
    split_folders = [folder / split for folder in folders[:1] for split in SPLIT_KEYS]
    split_folders += [folder / "images" for folder in folders[1:]]
    return any(folder.is_dir() for folder in split_folders)


def read_yolo_files(place: Place, images: ImageFiles, options: Options, remarks: Remarks) -> Labels:
    """Labels of all images in a folder, given by itself or a YAML file in it, with a label file.

    With ``obj.data``, whose writers give every image a file, an empty one is that of an unlabeled
    image unless the options say otherwise.

    Raises:
        SourceError: if there is no such image, no list of classes or one that contradicts another,
            a file cannot be read, or it is that of two images.
    """
    layout = YoloLayout.read(place, outside=False)
    root = images.folder
    darknet = _read_darknet(root / DARKNET)
    origin, classes = _class_names(root, darknet) if layout.config is None else ("", [])
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
        if boxes or options.empty_is_labeled or darknet is None:
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
    if darknet is not None:
        remark_on_subsets(root / DARKNET, _subsets(root, darknet), remarks)
    entries += [Entry(str(path), None, None, []) for path in labels_alone(root, owners)]
    return Labels(entries, tuple(classes))


def _read_darknet(path: Place) -> dict[str, str] | None:
    """What ``obj.data`` says, by key; None without it."""
    if not path.is_file():
        return None
    pairs = (line.partition("=") for line in read_lines(path))
    return {key.strip(): value.strip() for key, _, value in pairs}


def _named_in_darknet(root: Place, key: str, name: str) -> Place:
    where = f"{root / DARKNET}: {key}"
    path = join_inside(root, name, root, where)
    # The folder "data" is Darknet's own, in which the dataset is to be put.
    return path if path.is_file() else join_inside(root, name.removeprefix("data/"), root, where)


def _class_names(root: Place, darknet: dict[str, str] | None) -> tuple[str, list[str]]:
    """Without a YAML file: those of ``obj.data``, or of ``classes.txt`` in root or ``labels``.

    Before them, the file.
    """
    name = (darknet or {}).get("names")
    path = _named_in_darknet(root, "names", name) if name else root / "obj.names"
    for candidate in (path, root / "classes.txt", root / "labels" / "classes.txt"):
        if names := read_class_file(candidate):
            return str(candidate), names
    return "", []


def _subsets(root: Place, darknet: dict[str, str]) -> dict[str, int | None]:
    """The lists of images that ``obj.data`` names, and how many are in each; None: unreadable."""
    found: dict[str, int | None] = {}
    # Many name one list for both training and validation.
    keys = {darknet[key]: key for key in reversed(_DARKNET_SPLITS) if darknet.get(key)}
    for name, key in reversed(keys.items()):
        try:
            lines = read_lines(_named_in_darknet(root, key, name))
            found[key] = sum(1 for line in lines if line.strip())
        except SourceError:
            # Often a path of the machine that Darknet ran on, and nothing here needs the list.
            found[key] = None
    return {key: count for key, count in found.items() if count != 0}
