"""Image files: what the pixels become, and that every failure is an ImageError with the name."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import detection_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from torch.utils.data import DataLoader, Dataset

from dre_ssod.data.images import (
    LARGEST_FILE,
    ImageError,
    check_shape,
    check_size,
    decoding,
    read_header,
    read_image,
)
from dre_ssod.errors import SourceError

SHAPE = (9, 13, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
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


def save(path: Path, image: PillowImage.Image, **options: object) -> str:
    image.save(path, **options)
    return str(path)


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


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "there is no such file"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "damaged, or none of JPEG, PNG"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "damaged, or none of"),
        (lambda path: PillowImage.fromarray(PIXELS).save(path, "GIF"), "none of JPEG, PNG"),
        (truncated, "truncated"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder, no image"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is no regular file, but a pipe"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "is no regular file"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "cannot be read .*[Ll]ink|levels"),
        (lambda path: os.truncate(path, LARGEST_FILE + 1), r"has 2\.0 GiB, more than any image"),
    ],
)
def test_files_that_are_no_images_are_refused_by_name(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "bad.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PillowImage.fromarray(noise).save(path)
    spoil(path)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(str(path), "RGB")
    assert str(caught.value).startswith(str(path))
    assert caught.value.file_name == str(path)


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


def test_a_damaged_jpeg_is_left_to_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow takes files with a little damage; the strict decoder refuses them."""
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-2] + b"more" + b"\xff\xd9")
    with pytest.raises(ValueError):  # noqa: PT011 (in its own words)
        decoding.decode_jpeg(path.read_bytes(), "RGB")
    found = read_image(str(path), "RGB")
    monkeypatch.setattr(decoding, "decode_jpeg", None)
    assert np.array_equal(read_image(str(path), "RGB"), found)


@pytest.mark.parametrize("read", [read_header, lambda path: read_image(path, "BGR")])
def test_decompression_bombs_are_refused_before_they_are_decoded(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    path = tmp_path / "bomb.png"
    PillowImage.new("L", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"bomb\.png: states more than 178 million"):
        read(str(path))


@pytest.mark.parametrize("name", ["a\0b.jpg", "a\ud800.jpg", "x" * 300 + ".jpg", ""])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(name, "RGB")
    assert caught.value.file_name == name


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "bmp", "tif"])
def test_damaged_files_give_an_image_error_or_an_image(tmp_path: Path, extension: str) -> None:
    path = Path(save(tmp_path / f"image.{extension}", PillowImage.fromarray(PIXELS)))
    content = path.read_bytes()
    messages: list[str] = []

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        changes=st.lists(
            st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6
        ),
        cut=st.integers(0, len(content)),
    )
    def check(changes: list[tuple[int, int]], cut: int) -> None:
        damaged = bytearray(content)
        for position, value in changes:
            damaged[position] = value
        path.write_bytes(damaged[:cut] if cut % 2 else damaged)
        try:
            image = read_image(str(path), "RGB")
        except ImageError as error:
            messages.append(str(error))
            return
        header = read_header(str(path))
        assert image.shape == (header.height, header.width, 3)

    check()
    assert messages
    assert all(message.startswith(str(path)) for message in messages)


def test_sizes_that_differ_are_named_and_swapped_ones_explained() -> None:
    check_size("a.jpg", (6, 8, 3), (6, 8))
    with pytest.raises(ImageError, match=r"a\.jpg: the image is 8 x 6 .* says 8 x 7; correct"):
        check_size("a.jpg", (6, 8, 3), (7, 8))
    with pytest.raises(ImageError, match=r"says 6 x 8; the two are swapped: .* EXIF"):
        check_size("a.jpg", (6, 8, 3), (8, 6))


def test_the_thinnest_image_keeps_half_a_pixel() -> None:
    check_shape("a.jpg", (1, 200, 3), max_size=100)
    for shape in ((1, 201, 3), (201, 1, 3)):
        with pytest.raises(ImageError, match="too long and thin: with a longest side of 100"):
            check_shape("a.jpg", shape, max_size=100)


def test_the_error_survives_pickling_and_is_a_source_error() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.jpg: damaged", "a.jpg")))
    assert (str(error), error.file_name) == ("a.jpg: damaged", "a.jpg")
    assert isinstance(error, SourceError)


class _Unreadable(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(read_image("nowhere.jpg", "RGB"))


def test_a_worker_process_passes_the_error_on() -> None:
    with pytest.raises(ImageError, match=r"nowhere\.jpg: there is no such file"):
        list(DataLoader(_Unreadable(), num_workers=1))
