"""Image files: what the pixels become, and what their headers say."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image as PillowImage

from dre_ssod.data.images import (
    ImageError,
    check_shape,
    decoding,
    read_header,
    read_image,
)
from tests.data.pictures import PIXELS, SHAPE, save

MODES = [
    ("RGB", "jpg"),
    ("RGB", "png"),
    ("RGB", "webp"),
    ("RGB", "bmp"),
    ("RGB", "tif"),
    ("L", "jpg"),
    ("L", "png"),
    ("LA", "png"),
    ("LA", "tif"),
    ("RGBA", "png"),
    ("RGBA", "webp"),
    ("RGBA", "tif"),
    ("P", "png"),
    ("P", "bmp"),
    ("PA", "tif"),
    ("1", "png"),
    ("1", "bmp"),
    ("CMYK", "jpg"),
    ("CMYK", "tif"),
    ("YCbCr", "tif"),
    ("LAB", "tif"),
]


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize(("mode", "extension"), MODES)
def test_pictures_of_8_bits_are_read_as_detectron2_reads_them(
    tmp_path: Path, mode: str, extension: str, image_format: str
) -> None:
    picture = PillowImage.fromarray(PIXELS)
    picture = picture.convert("L").convert(mode) if mode == "PA" else picture.convert(mode)
    path = save(tmp_path / f"image.{extension}", picture)
    image = read_image(path, image_format)
    assert np.array_equal(image, detection_utils.read_image(path, format=image_format))
    assert image.shape == SHAPE
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous


def test_transparency_is_dropped_and_not_blended(tmp_path: Path) -> None:
    clear = np.dstack([PIXELS, np.zeros(SHAPE[:2], np.uint8)])
    path = save(tmp_path / "clear.png", PillowImage.fromarray(clear))
    assert np.array_equal(read_image(path, "RGB"), PIXELS)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_of_16_bits_the_upper_8_are_kept(tmp_path: Path, extension: str) -> None:
    grey = np.array([[0, 255, 256, 4095, 4096, 32768, 65535]], np.uint16)
    path = save(tmp_path / f"deep.{extension}", PillowImage.fromarray(grey))
    expected = [0, 0, 1, 15, 16, 128, 255]
    assert read_image(path, "RGB")[0].tolist() == [[value] * 3 for value in expected]
    # The same as Pillow gives for colours.
    colour = tmp_path / f"colour.{extension}"
    assert cv2.imwrite(str(colour), np.repeat(grey[:, :, None], 3, axis=2))
    assert np.array_equal(read_image(str(colour), "RGB"), read_image(path, "RGB"))


def test_negatives_of_8_and_16_bits_are_turned_alike(tmp_path: Path) -> None:
    """TIFF files in which 0 is white; Pillow turns those of 8 bits when it writes them, too."""
    grey = np.array([[0, 100, 255]], np.uint8)
    white_is_zero = {"tiffinfo": {262: 0}}
    shallow = save(tmp_path / "8.tif", PillowImage.fromarray(grey), **white_is_zero)
    stored = 65535 - 257 * grey.astype(np.uint16)
    deep = save(tmp_path / "16.tif", PillowImage.fromarray(stored), **white_is_zero)
    for path in (shallow, deep):
        assert read_image(path, "RGB")[0, :, 0].tolist() == [0, 100, 255]


def test_16_bits_that_would_be_all_black_are_refused(tmp_path: Path) -> None:
    grey = np.array([[0, 4095]], np.uint16)
    path = save(tmp_path / "dark.png", PillowImage.fromarray(grey))
    with pytest.raises(ImageError, match=r"dark\.png: .*no value above 4095 of 65535"):
        read_image(path, "RGB")
    # A hot pixel of the sensor does not light the rest.
    grey = np.full((100, 100), 3000, np.uint16)
    grey[0, 0] = 65535
    path = save(tmp_path / "hot.png", PillowImage.fromarray(grey))
    with pytest.raises(ImageError, match=r"no value above 3000 of 65535 but in 1 of 10000 pixels"):
        read_image(path, "RGB")
    grey[0, 1] = 4096
    path = save(tmp_path / "lit.png", PillowImage.fromarray(grey))
    assert read_image(path, "RGB")[0, :3, 0].tolist() == [255, 16, 11]
    # Black itself is black.
    black = save(tmp_path / "black.png", PillowImage.fromarray(np.zeros((2, 2), np.uint16)))
    assert not read_image(black, "RGB").any()


@pytest.mark.parametrize(("dtype", "name"), [(np.int32, "32-bit integers"), (np.float32, "floats")])
def test_pixels_without_a_defined_white_are_refused(
    tmp_path: Path, dtype: type[np.generic], name: str
) -> None:
    path = save(tmp_path / "wide.tif", PillowImage.fromarray(PIXELS[..., 0].astype(dtype)))
    with pytest.raises(ImageError, match=rf"wide\.tif: its pixels are {name}.* 8 or 16 bits"):
        read_image(path, "RGB")


@pytest.mark.parametrize("extension", ["png", "webp", "tif"])
def test_of_several_pictures_the_first_is_read(tmp_path: Path, extension: str) -> None:
    first, second = PillowImage.fromarray(PIXELS), PillowImage.fromarray(255 - PIXELS)
    lossless = {"lossless": True} if extension == "webp" else {}
    path = save(
        tmp_path / f"several.{extension}", first, save_all=True, append_images=[second], **lossless
    )
    with PillowImage.open(path) as image:
        assert image.n_frames == 2
    assert np.array_equal(read_image(path, "RGB"), PIXELS)
    header = read_header(path)
    assert (header.height, header.width, header.several) == (*SHAPE[:2], True)
    assert not read_header(save(tmp_path / f"one.{extension}", first)).several


TURNED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: PIXELS.transpose(1, 0, 2)[:, ::-1],
    7: PIXELS.transpose(1, 0, 2)[::-1, ::-1],
    8: PIXELS.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_and_the_header_agrees(
    tmp_path: Path, orientation: int, extension: str
) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if extension == "webp" else {}
    picture = PillowImage.fromarray(PIXELS)
    path = save(tmp_path / f"turned.{extension}", picture, exif=exif, **options)
    image, header = read_image(path, "RGB"), read_header(path)
    assert (header.height, header.width) == image.shape[:2] == TURNED[orientation].shape[:2]
    assert header.orientation == orientation
    if extension == "jpg":
        assert np.array_equal(image, detection_utils.read_image(path, "RGB"))
    else:
        assert np.array_equal(image, TURNED[orientation])


def test_an_orientation_at_the_end_of_a_png_file_is_found(tmp_path: Path) -> None:
    path = Path(save(tmp_path / "late.png", PillowImage.fromarray(PIXELS)))
    # One entry: tag 0x0112, a short, 6.
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    chunk = b"eXIf" + exif
    late = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    end = path.read_bytes()[-12:]
    path.write_bytes(path.read_bytes()[:-12] + late + end)
    assert np.array_equal(read_image(str(path), "RGB"), TURNED[6])
    header = read_header(str(path))
    assert (header.height, header.width, header.orientation) == (13, 9, 6)


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""])
def test_damaged_exif_entries_say_nothing(tmp_path: Path, exif: bytes) -> None:
    path = save(tmp_path / "exif.jpg", PillowImage.fromarray(PIXELS), exif=exif)
    assert read_image(path, "RGB").shape == SHAPE
    assert read_header(path).orientation == 1


@pytest.mark.parametrize("size", [(1, 1), (16, 8), (53, 37)])
@pytest.mark.parametrize("subsampling", [0, 1, 2, "4:1:1"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 5}, {"keep_rgb": True}])
def test_both_decoders_of_jpeg_files_give_the_same(
    size: tuple[int, int],
    subsampling: int | str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if options.get("keep_rgb"):
        subsampling = 0
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(path, subsampling=subsampling, **options)
    assert decoding.decode_jpeg is not None
    fast = [read_image(str(path), order) for order in ("RGB", "BGR")]
    monkeypatch.setattr(decoding, "decode_jpeg", None)
    for found, order in zip(fast, ("RGB", "BGR"), strict=True):
        assert found.flags.c_contiguous
        assert found.dtype == np.uint8
        assert np.array_equal(read_image(str(path), order), found)


def test_the_thinnest_image_keeps_half_a_pixel() -> None:
    check_shape("a.jpg", (1, 200, 3), max_size=100)
    for shape in ((1, 201, 3), (201, 1, 3)):
        with pytest.raises(ImageError, match="too long and thin: with a longest side of 100"):
            check_shape("a.jpg", shape, max_size=100)
