"""Reading of image files: what the pixels become, and what is refused by name.

Files are read as Detectron2 reads them, with three differences: 16-bit gray images are scaled to 8
bits where Pillow cuts off all that is brighter than 255, and inverted where a TIFF file says that 0
is white, as Pillow does for 8 bits; 32-bit images are refused, since nothing says what black and
white are; TIFF files with an orientation are turned once, not twice.

Whatever is wrong with a file comes out as an :class:`ImageError`; :func:`is_unreachable` tells one
that could not be got at from one with bad content.
"""

from __future__ import annotations

from dre_ssod.data.images.checks import check_shape, check_size
from dre_ssod.data.images.decoding import ImageHeader, Pixels, read_header, read_image
from dre_ssod.data.images.files import LARGEST_FILE, ImageError, is_unreachable, open_picture

__all__ = [
    "LARGEST_FILE",
    "ImageError",
    "ImageHeader",
    "Pixels",
    "check_shape",
    "check_size",
    "is_unreachable",
    "open_picture",
    "read_header",
    "read_image",
]
