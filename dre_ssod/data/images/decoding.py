"""What the pixels of a picture file become, and what its start says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from dre_ssod.data.images.files import ImageError, is_of_system, open_picture
from dre_ssod.errors import UserError

try:
    from simplejpeg import decode_jpeg
except ImportError:  # There is not a wheel for every machine; Pillow gives the same pixels.
    decode_jpeg = None

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Pillow's names of the accepted formats. Others are not even tried: some start programs."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION = 0x0112
_PHOTOMETRIC = 0x0106
_TOO_DARK = 4096
"""Values of 16 bits that 12 bits do not have."""
_SPOTS = 10_000
"""One pixel in so many may be brighter, as a hot pixel of a sensor is, without saving an image."""
_TURNS = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageHeader:
    """What the start of a file says about its image.

    Attributes:
        width, height: in pixels, as :func:`read_image` gives the image.
        mode: Pillow's name of the pixel type, as stored ("RGB", "L", "I;16", ...).
        file_format: one of ``FORMATS``, or "MPO", a JPEG file with several pictures.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        several: whether it has further pictures, which are not read: pages of a TIFF file, frames
            of an animation. Those that phones put beside a photograph (MPO) do not count.
    """

    width: int
    height: int
    mode: str
    file_format: str
    orientation: int
    several: bool = False


def read_image(file_name: str, image_format: str) -> Pixels:
    """Decode an image, turned upright as its EXIF orientation says.

    Args:
        file_name: of a JPEG, PNG, WebP, BMP or TIFF file. Of animations and of files with several
            pages, the first is read.
        image_format: order of the channels, "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8, contiguous. Gray and palette images become color ones, transparency is
        dropped (not blended), CMYK is converted without a color profile, of 16 bits the upper 8
        are kept.

    Raises:
        ImageError: if the file is missing, damaged, of another format, a decompression bomb or of a
            pixel type that has no defined black and white.
    """
    try:
        with open_picture(file_name) as file:
            image = _open(file, file_name)
            pixels = _decode_plain_jpeg(image, file, image_format)
            if pixels is not None:
                return pixels
            pixels = np.ascontiguousarray(_decode(image, file_name))
    except UserError:
        # A store that does not answer, or a disk that has no room for the copy, says nothing of
        # the image.
        raise
    except Exception as error:  # On damaged files, Pillow's decoders raise errors of any type.
        raise _unreadable(file_name, error) from error
    if image_format == "RGB":
        return pixels
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)


def read_header(file_name: str) -> ImageHeader:
    """Size and type of an image without decoding it, save for PNG files with text at their end.

    Raises:
        ImageError: if the file is missing, of another format or damaged at its start, or a
            decompression bomb. A file that passes can still be damaged further on.
    """
    try:
        with open_picture(file_name) as file:
            image = _open(file, file_name)
            if image.format == "PNG" and _has_late_text(file):
                image.load()
            orientation = _orientation(image)
            width, height = image.size
            # Of a TIFF file, Pillow gives the size that it has after turning.
            turned = getattr(image, "tag_v2", {}).get(_ORIENTATION, 1) in _SIDEWAYS
            if orientation in _SIDEWAYS and not turned:
                width, height = height, width
            several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            return ImageHeader(width, height, image.mode, str(image.format), orientation, several)
    except UserError:
        raise
    except Exception as error:  # As above.
        raise _unreadable(file_name, error) from error


def _open(file: IO[bytes], file_name: str) -> PillowImage.Image:
    """Read the header.

    Raises:
        ImageError: for files of other formats and for decompression bombs.
    """
    try:
        image = PillowImage.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        file.seek(0, 2)
        problem = "damaged, or none of JPEG, PNG, WebP, BMP and TIFF" if file.tell() else "empty"
        raise ImageError(
            f"{file_name}: the file is {problem}; convert or replace it, or remove it from the set",
            file_name,
        ) from error
    except PillowImage.DecompressionBombError as error:
        limit = 2 * (PillowImage.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ImageError(
            f"{file_name}: states more than {limit} million pixels, as files do that are meant to "
            "exhaust the memory; if it is a real image, cut it into tiles",
            file_name,
        ) from error
    if min(image.size) < 1:
        raise ImageError(f"{file_name}: has no pixels ({image.width} x {image.height})", file_name)
    return image


def _decode_plain_jpeg(
    image: PillowImage.Image, file: IO[bytes], image_format: str
) -> Pixels | None:
    """The pixels of an upright color JPEG file, a quarter faster than by Pillow and the same.

    Both call libjpeg-turbo, but Pillow keeps four bytes per pixel and then makes two copies. None
    for any other file, and for one that is damaged: Pillow then says what is wrong, or reads it.
    """
    if decode_jpeg is None:
        return None
    if image.format != "JPEG" or image.mode != "RGB" or _orientation(image) != 1:
        return None
    file.seek(0)
    try:
        return np.asarray(decode_jpeg(file.read(), image_format), np.uint8)
    except ValueError:
        file.seek(0)
        return None


def _decode(image: PillowImage.Image, file_name: str) -> Pixels:
    white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    # Pillow turns a TIFF file while loading it; the orientation is asked for afterwards.
    image.load()
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):
        pixels = _scale_to_bytes(np.asarray(image), file_name)
        # Of 8 bits, Pillow itself has turned such a negative into the picture.
        return ~pixels if white_is_zero else pixels
    if image.mode in ("I", "F"):
        raise ImageError(
            f"{file_name}: its pixels are {'32-bit integers' if image.mode == 'I' else 'floats'}, "
            "and nothing says what is black and what is white; save 8 or 16 bits per channel",
            file_name,
        )
    return np.array(image.convert("RGB"))


def _scale_to_bytes(gray: NDArray[np.uint16], file_name: str) -> Pixels:
    """(H, W, 3): the upper 8 of 16 bits, as Pillow itself gives the channels of 16-bit colors."""
    bright = int(np.count_nonzero(gray >= _TOO_DARK))
    brightest = int(gray[gray < _TOO_DARK].max(initial=0)) if bright <= gray.size // _SPOTS else 0
    if brightest:
        spots = f" but in {bright} of {gray.size} pixels" if bright else ""
        raise ImageError(
            f"{file_name}: has 16 bits per pixel, but no value above {brightest} of 65535{spots}, "
            "which leaves it all of one shade; stretch the values to the whole range, or save 8 "
            "bits",
            file_name,
        )
    return np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


def _orientation(image: PillowImage.Image) -> int:
    """EXIF orientation by what has been read of the file so far."""
    try:
        # A PNG file's own getexif() would decode the image where it has found no EXIF entries yet.
        value = PillowImage.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # Damaged EXIF entries say nothing, as in Detectron2.
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _has_late_text(file: IO[bytes]) -> bool:
    """Whether a PNG file has entries after its pixels that may hold the orientation."""
    position = len(_PNG_SIGNATURE)
    pixels_seen = False
    while True:
        file.seek(position)
        chunk = file.read(8)
        if len(chunk) < 8:
            return False
        kind = chunk[4:]
        pixels_seen = pixels_seen or kind == b"IDAT"
        if pixels_seen and kind in _PNG_TEXT:
            return True
        position += 12 + int.from_bytes(chunk[:4], "big")


def _unreadable(file_name: str, error: Exception) -> ImageError:
    if isinstance(error, FileNotFoundError):
        return ImageError(f"{file_name}: there is no such file", file_name)
    reason = str(error) or type(error).__name__
    if is_of_system(error):
        return ImageError(f"{file_name}: cannot be read: {reason}; see that it can be", file_name)
    return ImageError(
        f"{file_name}: cannot be read as an image: {reason}; replace it, or remove it from the set",
        file_name,
    )
