"""The kinds of problem that a dataset can have, how bad each is, and what to do about it.

An error makes training or evaluation refuse a set, loses images or objects, or makes a measured
figure untrue. A warning is something that training handles and a person should look at. A note
changes nothing here; other programs may stumble over it.
"""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("error", "warning", "note")
OUTSIDE_TOLERANCE = 1.0
"""Pixels that a box may reach over the image's edge: what rounding and 1-based corners cause."""
CROWD_SHARE = 0.1
"""Share of crowd regions among the objects of a set from which on they are named."""

EMPTY_SHARE = 0.5
"""Share of images without annotations in a COCO file from which on they are named; COCO: 0.01."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem: one of ``SEVERITIES``, what it is, and what to do about it."""

    severity: str
    meaning: str
    advice: str


KINDS = {
    "unusable-set": Kind(
        "error", "the set cannot be read as its role demands", "repair what the message names"
    ),
    "no-boxes": Kind(
        "error", "a labeled or test set has no box", "check the annotation file and the split"
    ),
    "missing-file": Kind("error", "no file where an image should be", "restore it or its folder"),
    "empty-file": Kind("error", "an image file of zero bytes", "copy it again"),
    "truncated-file": Kind("error", "an image file whose end is missing", "copy it again"),
    "unreadable-file": Kind("error", "a file that does not decode", "replace or remove it"),
    "broken-shard": Kind(
        "error",
        "a tar file that is none, ends early, or holds what cannot be told apart; what can be read "
        "counts",
        "pack its images again",
    ),
    "size-mismatch": Kind(
        "error",
        "width and height of the annotation are not those of the decoded image",
        "correct them; where EXIF turns the image, boxes must be in the turned frame",
    ),
    "thin-image": Kind(
        "error",
        "an image of which resizing leaves less than half a pixel of the short side; refused",
        "cut it into pieces, or remove it",
    ),
    "duplicate-id": Kind(
        "error", "an image id is used twice in a set", "give every image an id of its own"
    ),
    "lost-label": Kind(
        "error",
        "a label file that is not read, since its name is not quite the one that an image needs",
        "rename it",
    ),
    "labels-alone": Kind(
        "error",
        "labels of an image that is not in the folder of images; left out",
        "restore the image, or remove its labels",
    ),
    "box-off-image": Kind(
        "error",
        "a box lies wholly outside its image; left out",
        "correct the box or the image's size",
    ),
    "fraction-box": Kind(
        "error",
        "a box within the first pixel of its image, as fractions of the image's size are; left out",
        "multiply x and width by the image's width, y and height by its height",
    ),
    "class-mismatch": Kind(
        "error",
        "labeled and test sets differ in the names or the order of their classes",
        "give all of them the same list; voc:// takes it from classes=",
    ),
    "leakage": Kind(
        "error",
        "a test image, byte for byte, is also a training image",
        "remove it from the training set",
    ),
    "odd-end": Kind(
        "warning",
        "a file decodes, but does not end as its format does",
        "look at it: part of the picture may be missing",
    ),
    "several-pictures": Kind(
        "warning",
        "a TIFF file with several pages or an animation; the first picture alone is used",
        "save each picture that is data as a file of its own",
    ),
    "exif-rotation": Kind(
        "warning",
        "EXIF turns or mirrors an annotated image; boxes are taken as of the turned one",
        "check that the boxes were drawn on the turned image",
    ),
    "box-outside": Kind(
        "warning",
        f"a box reaches more than {OUTSIDE_TOLERANCE:g} px over the image's edge; training clips",
        "check how the box was made",
    ),
    "no-box": Kind(
        "warning",
        "a labeled shape that has no box: a point, a line, a painted mask; left out",
        "draw a box or a polygon around it, if it is an object to be found",
    ),
    "undrawn-image": Kind(
        "warning",
        "an image that a labeling program lists without a box; unlabeled, and so left out, unless "
        "empty=labeled is added to the URI",
        "add it if nothing is on such images, or label them",
    ),
    "joined-subsets": Kind(
        "warning",
        "a file of CVAT or Darknet that puts its images into several subsets, such as for training "
        "and validation; the images of all subsets count alike",
        "keep them apart, if one is to be measured on: in CVAT export each subset by itself; for "
        "YOLO write a YAML file with splits, or move the images to a folder of their own",
    ),
    "many-empty": Kind(
        "warning",
        f"at least {100 * EMPTY_SHARE:g} % of the images of a COCO file have no annotation, as "
        "where a program lists those that nobody has looked at; they count as labeled and empty, "
        "unless empty=unlabeled is added to the URI",
        "add it if nobody has looked at them, and draw splits again; empty=labeled says that "
        "nothing is on them",
    ),
    "zero-corner": Kind(
        "warning",
        "a corner at 0 where VOC counts from 1, so that all boxes of the set may begin a pixel too "
        "far left and up; first_pixel=0 in the URI counts from 0",
        "add it if the program writes x1, y1, x2, y2 as they are, as CVAT and Label Studio do",
    ),
    "pose-line": Kind(
        "warning",
        "a polygon of which the first four numbers are a box that holds the others, as where key "
        "points follow a box; the box around all of them counts",
        "write kpt_shape into the YAML file if they are key points",
    ),
    "cut-box": Kind(
        "warning", "a box a hair beyond the image in a YOLO file; cut to the image", "nothing"
    ),
    "empty-box": Kind(
        "warning", "a box of zero or negative width or height; left out", "remove or correct it"
    ),
    "nan-box": Kind(
        "warning", "a box with a corner that is no number of pixels; left out", "remove it"
    ),
    "duplicate-box": Kind(
        "warning", "an object with the class and the box of another one; left out", "remove it"
    ),
    "tiny-box": Kind(
        "warning",
        "a box less than one pixel wide or high; it counts",
        "check whether pixels are meant",
    ),
    "many-crowds": Kind(
        "warning",
        f"more than {100 * CROWD_SHARE:g} % of the objects are crowd regions, which no detector "
        "learns or has to find",
        "set 'iscrowd' to 0 where an entry is one object; exports of masks set it to 1",
    ),
    "crowded-image": Kind(
        "warning",
        "a test image with more objects than TEST.DETECTIONS_PER_IMAGE",
        "raise it; figures by COCO's protocol have 100",
    ),
    "placeholder-area": Kind(
        "warning",
        "an 'area' that is not that of a mask in the box; APs, APm and APl go by the box's area",
        "write the area of the mask or of the box",
    ),
    "stray-annotation": Kind(
        "warning", "an annotation of an image that the file does not list; left out", "remove it"
    ),
    "no-label-file": Kind(
        "warning",
        "an image without a label file in a set where others have one; it counts as empty",
        "write an empty file if nothing is on it",
    ),
    "other-picture": Kind(
        "warning", "a picture in a format that is not read; not used", "convert it to JPEG or PNG"
    ),
    "hidden-image": Kind(
        "warning",
        "an image that a list of the set names and that is hidden, or in a hidden folder, as "
        "copies of Jupyter and macOS are; it counts",
        "take it off the list if it is a copy",
    ),
    "odd-name": Kind(
        "warning",
        "the name of a class begins or ends with a space, or has a character that does not show",
        "rename it in all sets",
    ),
    "alike-names": Kind(
        "warning",
        "classes that differ in case, spaces around them or the Unicode form of letters alone; "
        "each counts as a class, with a part of the boxes",
        "give them one name in all sets, if they are one class",
    ),
    "unused-category": Kind(
        "warning",
        "a category without objects that has the name of another one; left out",
        "remove it from the file",
    ),
    "untrained-class": Kind(
        "warning", "a class without any box in the labeled sets", "label some, or drop the class"
    ),
    "duplicate-file": Kind(
        "warning",
        "two images of equal bytes that are no leakage",
        "keep one of them, or accept that it counts twice",
    ),
    "unlabeled-image": Kind(
        "note",
        "an image without labels where only a part need have them; it is unlabeled, not empty",
        "name its folder, or this source, in DATASETS.UNLABELED to train on it",
    ),
    "known-image": Kind(
        "note",
        "images of an unlabeled set that are labeled or tested on as well; left out of it",
        "nothing; DATASETS.UNLABELED_OVERLAP keeps those that are labeled",
    ),
    "bad-mask": Kind(
        "note",
        "polygons of which none has three points; masks are not read, and the box counts",
        "nothing; Detectron2's own reader drops the object",
    ),
    "hidden-file": Kind(
        "note",
        "a hidden picture or folder, or one in which systems keep copies; no data",
        "nothing; rename it if it is data",
    ),
    "windows-path": Kind(
        "note",
        "a file name with backslashes; taken as a path of Windows",
        "write it with /, which works everywhere",
    ),
    "zero-id": Kind(
        "note",
        "an annotation of id 0; it counts",
        "nothing; pycocotools takes it for one that no detection finds",
    ),
}
