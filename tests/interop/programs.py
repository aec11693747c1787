"""Checks with the libraries of other programs that they read what is written here, and back.

    python -m tests.interop.programs write DIR       # where this project is installed
    python tests/interop/programs.py programs DIR    # where the libraries are
    python -m tests.interop.programs read DIR        # where this project is installed

``write`` makes a set of three images in every form. ``programs`` has label-studio-sdk, datumaro and
supervision read it, and write it in their own forms. ``read`` reads those. All compare classes,
images and boxes with the set's, and print a row each: the table of docs/data.md.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Found = dict[str, list[tuple[str, list[float]]]]
"""Class name and (x1, y1, x2, y2) of the objects, by the image's name."""

CLASSES = ["red cell", "platelet", "never seen"]
SIZES = {"a": (97, 61), "b": (64, 48), "c": (50, 80)}
TRUTH: Found = {
    "a": [("red cell", [3, 5, 40, 44]), ("platelet", [50, 10, 97, 61])],
    "b": [("platelet", [0, 0, 64, 48]), ("red cell", [7, 9, 30, 31]), ("platelet", [31, 2, 44, 9])],
    "c": [("red cell", [10, 20, 31, 77])],
}
FORMS = ("coco", "yolo", "voc", "labelstudio", "cvat")


def compare(what: str, found: Found, classes: list[str] | None = None, slack: float = 1e-3) -> None:
    """Print whether a set is the one that was written."""
    problems = []
    for name, expected in TRUTH.items():
        boxes = sorted(found.get(name, []))
        if [label for label, _ in boxes] != [label for label, _ in sorted(expected)]:
            problems.append(f"{name}: {boxes}")
            continue
        pairs = zip(boxes, sorted(expected), strict=True)
        worst = max(abs(a - b) for (_, x), (_, y) in pairs for a, b in zip(x, y, strict=True))
        if worst > slack:
            problems.append(f"{name}: {worst:g} px")
    if classes is not None and classes != CLASSES:
        problems.append(f"classes {classes}")
    print(f"{what}: {'; '.join(problems) or 'equal'}")


def write(root: Path) -> None:
    """The set in every form of ``tools/convert_dataset.py``."""
    from PIL import Image

    from dre_ssod.data.conversion.convert import convert

    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    for number, (name, size) in enumerate(SIZES.items(), start=1):
        Image.new("RGB", size, (10 * number, 90, 120)).save(root / "images" / f"{name}.png")
        images.append(
            {"id": number, "file_name": f"{name}.png", "width": size[0], "height": size[1]}
        )
        for label, (x1, y1, x2, y2) in TRUTH[name]:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            identity = {"id": len(annotations) + 1, "image_id": number}
            annotations.append({**identity, "category_id": CLASSES.index(label) + 1, **box})
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "set.json").write_text(json.dumps(content))
    for form in FORMS:
        convert(
            {"train": f"coco://{root}/set.json?images={root}/images"}, form, root / "ours" / form
        )


def read(root: Path) -> None:
    """What the programs wrote, and what was written here."""
    from dre_ssod.data.records import corners
    from dre_ssod.data.sources.catalog import class_names, load_one_labeled

    images, theirs = root / "images", root / "theirs"
    chosen = "&classes=" + ",".join(name.replace(" ", "%20") for name in CLASSES)
    rows = {
        "datumaro CVAT": f"cvat://{theirs}/datumaro/cvat/train.xml?images={images}",
        "datumaro VOC": f"voc://{theirs}/datumaro/voc?split=train&first_pixel=0",
        "datumaro COCO": f"coco://{theirs}/datumaro/coco/annotations/instances_train.json"
        f"?images={theirs}/datumaro/coco/images/train",
        "datumaro YOLO (obj.data)": f"yolo://{theirs}/datumaro/yolo",
        "supervision VOC": f"voc://{theirs}/supervision/voc/images"
        f"?annotations={theirs}/supervision/voc/annotations{chosen}",
        "supervision YOLO": f"yolo://{theirs}/supervision/yolo",
        "supervision COCO": f"coco://{theirs}/supervision/coco.json?images={images}",
        "supervision LabelMe": f"labelme://{theirs}/supervision/labelme?images={images}{chosen}",
        "label-studio-sdk JSON": f"labelstudio://{theirs}/label_studio/export.json"
        f"?images={images}{chosen}",
        "label-studio-sdk VOC": f"voc://{images}?annotations={theirs}/label_studio/voc/Annotations"
        f"&first_pixel=0{chosen}",
        "label-studio-sdk YOLO": f"yolo://{theirs}/label_studio/yolo",
        "label-studio-sdk import of our COCO": f"labelstudio://{theirs}/label_studio/from_coco.json"
        f"?images={images}{chosen}",
        "label-studio-sdk import of our YOLO": f"labelstudio://{theirs}/label_studio/from_yolo.json"
        f"?images={images}{chosen}",
    }
    for what, uri in rows.items():
        try:
            classes = class_names([uri])
            found = {
                Path(record["file_name"]).stem: [
                    (classes[item["category_id"]], list(corners(item)))
                    for item in record["annotations"]
                ]
                for record in load_one_labeled(uri)
            }
        except Exception as error:
            print(f"{what} -> here: {type(error).__name__}: {error}")
            continue
        slack = 1.0 if "VOC" in what and "label-studio" in what else 0.01
        # Label Studio's converter sorts the classes.
        compare(f"{what} -> here", found, None if what.endswith("YOLO") else classes, slack)


def programs(root: Path) -> None:
    """Have each library read what was written here, and write it."""
    for check in (with_supervision, with_datumaro, with_label_studio):
        try:
            check(root)
        except Exception as error:
            print(f"{check.__name__}: {type(error).__name__}: {error}")


def _attempt(what: str, action: Callable[[], tuple[Found, list[str] | None]], **more: Any) -> None:
    try:
        found, classes = action()
    except Exception as error:
        print(f"here -> {what}: {type(error).__name__}: {error}")
        return
    compare(f"here -> {what}", found, classes, **more)


def with_supervision(root: Path) -> None:
    import supervision as sv

    print(f"supervision {version('supervision')}")
    ours = root / "ours"

    def found(data: Any) -> tuple[Found, list[str]]:
        boxes = {
            Path(path).stem: [
                (data.classes[int(c)], box.tolist())
                for c, box in zip(labels.class_id, labels.xyxy, strict=True)
            ]
            for path, _, labels in data
        }
        return boxes, list(data.classes)

    coco = sv.DetectionDataset.from_coco(
        str(ours / "coco/images/train"), str(ours / "coco/annotations/instances_train.json")
    )
    _attempt("supervision COCO", lambda: found(coco))
    _attempt(
        "supervision YOLO",
        lambda: found(
            sv.DetectionDataset.from_yolo(
                str(ours / "yolo/images/train"),
                str(ours / "yolo/labels/train"),
                str(ours / "yolo/data.yaml"),
            )
        ),
    )
    _attempt(
        "supervision VOC",
        lambda: (
            found(
                sv.DetectionDataset.from_pascal_voc(
                    str(ours / "voc/JPEGImages"), str(ours / "voc/Annotations")
                )
            )[0],
            None,
        ),
    )
    theirs = root / "theirs/supervision"
    coco.as_pascal_voc(str(theirs / "voc/images"), str(theirs / "voc/annotations"))
    yolo = theirs / "yolo"
    coco.as_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"))
    coco.as_coco(annotations_path=str(theirs / "coco.json"))
    coco.as_labelme(annotations_directory_path=str(theirs / "labelme"))


def with_datumaro(root: Path) -> None:
    import datumaro as dm

    print(f"datumaro {version('datumaro')}")

    def found(folder: str, form: str) -> tuple[Found, list[str]]:
        data = dm.Dataset.import_from(str(root / "ours" / folder), form)
        labels = data.categories()[dm.AnnotationType.label]
        boxes: Found = {}
        for item in data:
            boxes[Path(item.id).stem] = [
                (labels[a.label].name, list(a.points))
                for a in item.annotations
                if a.type == dm.AnnotationType.bbox
            ]
        return boxes, [label.name for label in labels if label.name != "background"]

    for folder, form in (("coco", "coco"), ("yolo", "yolo")):
        _attempt(f"datumaro {folder} as {form}", lambda f=folder, t=form: found(f, t))
    _attempt("datumaro VOC", lambda: found("voc", "voc"), slack=1.0)
    _attempt("datumaro CVAT", lambda: found("cvat", "cvat"))
    data = dm.Dataset.import_from(str(root / "ours/coco"), "coco")
    forms = ("cvat", "voc", "coco", "yolo")
    for form in forms:
        try:
            data.export(str(root / "theirs/datumaro" / form), form, save_media=True)
        except Exception as error:
            print(f"datumaro writes {form}: {type(error).__name__}: {error}")


def with_label_studio(root: Path) -> None:
    import os

    from label_studio_sdk.converter import Converter
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls
    from label_studio_sdk.converter.imports.yolo import convert_yolo_to_ls
    from label_studio_sdk.label_interface import LabelInterface

    print(f"label-studio-sdk {version('label-studio-sdk')}")
    ours, theirs = root / "ours/labelstudio", root / "theirs/label_studio"
    config = (ours / "label_config.xml").read_text()
    tasks = json.loads((ours / "train.json").read_text())
    interface = LabelInterface(config)
    drawn = [annotation for task in tasks for annotation in task["annotations"]]
    guessed = [{"model_version": "x", "score": 0.5, "result": a["result"]} for a in drawn]
    valid = [interface.validate_annotation(item) for item in drawn]
    valid += [not interface.validate_prediction(item, return_errors=True) for item in guessed]
    print(f"here -> label-studio-sdk LabelInterface: valid {valid}")
    # As the server exports: with ids.
    export = [{"id": n, **task} for n, task in enumerate(tasks, start=1)]
    for n, task in enumerate(export, start=1):
        task["annotations"] = [{"id": n, "was_cancelled": False, **task["annotations"][0]}]
    theirs.mkdir(parents=True)
    (theirs / "export.json").write_text(json.dumps(export))
    os.environ["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"] = str(ours)
    converter = Converter(config, str(ours), download_resources=False)
    source = str(theirs / "export.json")
    converter.convert_to_coco(source, str(theirs / "coco"), is_dir=False)
    converter.convert_to_yolo(source, str(theirs / "yolo"), is_dir=False)
    converter.convert_to_voc(source, str(theirs / "voc"), is_dir=False)
    # The server puts the images in.
    shutil.copytree(ours / "images/train", theirs / "yolo/images", dirs_exist_ok=True)
    content = json.loads((theirs / "coco/result.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    files = {i["id"]: Path(i["file_name"]).stem for i in content["images"]}
    boxes: Found = {name: [] for name in files.values()}
    for item in content["annotations"]:
        x, y, w, h = item["bbox"]
        boxes[files[item["image_id"]]].append((names[item["category_id"]], [x, y, x + w, y + h]))
    compare("here -> label-studio-sdk COCO converter", boxes)
    convert_coco_to_ls(
        str(root / "ours/coco/annotations/instances_train.json"), str(theirs / "from_coco.json")
    )
    flat = root / "flat"
    for folder in ("images", "labels"):
        (flat / folder).mkdir(parents=True)
        for path in (root / "ours/yolo" / folder / "train").iterdir():
            (flat / folder / path.name).write_bytes(path.read_bytes())
    (flat / "classes.txt").write_text((root / "ours/yolo/classes.txt").read_text())
    convert_yolo_to_ls(str(flat), str(theirs / "from_yolo.json"))


if __name__ == "__main__":
    {"write": write, "programs": programs, "read": read}[sys.argv[1]](Path(sys.argv[2]).absolute())
