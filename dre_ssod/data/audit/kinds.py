"""The kinds of problem that the audit knows, how bad each is, and what to do about it.

An error makes training or evaluation refuse a set, loses images, or makes a measured figure
untrue. A warning is something that training handles and a person should look at.
"""

from __future__ import annotations

from dataclasses import dataclass

OUTSIDE_TOLERANCE = 1.0
"""Pixels that a box may reach over the image's edge: what rounding and 1-based corners cause."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem: "error" or "warning", what it is, and what to do about it."""

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
    "size-mismatch": Kind(
        "error",
        "width and height of the annotation are not those of the decoded image",
        "correct them; where EXIF turns the image, boxes must be in the turned frame",
    ),
    "duplicate-id": Kind(
        "error", "an image id is used twice in a set", "give every image an id of its own"
    ),
    "unknown-class": Kind(
        "error", "a box has a class index that the set does not name", "correct the class list"
    ),
    "box-off-image": Kind(
        "error", "a box lies wholly outside its image", "correct the box or the image's size"
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
    "exif-rotation": Kind(
        "warning",
        "EXIF turns or mirrors an annotated image; training applies it",
        "check that the boxes were drawn on the turned image",
    ),
    "box-outside": Kind(
        "warning",
        f"a box reaches more than {OUTSIDE_TOLERANCE:g} px over the image's edge; training clips",
        "check how the box was made",
    ),
    "empty-box": Kind(
        "warning", "a box of zero or negative width or height; training drops it", "remove it"
    ),
    "nan-box": Kind("warning", "a box that is not finite; training drops it", "remove it"),
    "untrained-class": Kind(
        "warning", "a class without any box in the labeled sets", "label some, or drop the class"
    ),
    "duplicate-file": Kind(
        "warning",
        "two images of equal bytes that are no leakage",
        "keep one of them, or accept that it counts twice",
    ),
}


@dataclass(frozen=True)
class Finding:
    """All problems of one kind in one set, or between the same sets.

    Attributes:
        kind: key of ``KINDS``.
        sets: labels of the sets.
        items: what is concerned, one text each.
    """

    kind: str
    sets: tuple[str, ...]
    items: tuple[str, ...]

    @property
    def severity(self) -> str:
        """ "error" or "warning"."""
        return KINDS[self.kind].severity
