"""Whether an image is one that its annotation and the training can do with."""

from __future__ import annotations

from collections.abc import Sequence

from dre_ssod.data.images.files import ImageError


def check_size(file_name: str, shape: Sequence[int], expected: tuple[int, int]) -> None:
    """Compare an image with what its annotation says.

    Args:
        file_name: of the image.
        shape: (height, width, ...) of the image as read.
        expected: (height, width) in the annotation.

    Raises:
        ImageError: if they differ.
    """
    height, width = shape[:2]
    if (height, width) == expected:
        return
    hint = "correct the annotation"
    if (width, height) == expected:
        hint = (
            "the two are swapped: the file may say in its EXIF entries that it is to be turned. "
            "Annotate images as viewers show them, or remove the orientation from the file"
        )
    raise ImageError(
        f"{file_name}: the image is {width} x {height} pixels, but its annotation says "
        f"{expected[1]} x {expected[0]}; {hint}",
        file_name,
    )


def check_shape(file_name: str, shape: Sequence[int], max_size: int) -> None:
    """Refuse an image that is so long that resizing would make it less than a pixel thin.

    Args:
        file_name: of the image.
        shape: (height, width, ...) of the image as read.
        max_size: longest side after resizing, in pixels (``INPUT.MAX_SIZE_TRAIN``, ``_TEST``).

    Raises:
        ImageError: if the short side would be rounded to 0.
    """
    short, long = sorted(shape[:2])
    if short * max_size / long < 0.5:
        raise ImageError(
            f"{file_name}: {shape[1]} x {shape[0]} pixels are too long and thin: with a longest "
            f"side of {max_size}, less than half a pixel is left of the other; cut the image into "
            "pieces or remove it",
            file_name,
        )
