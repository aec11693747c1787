"""Image files that are none, damaged or too large: every failure is an ImageError with the name."""

from __future__ import annotations

import errno
import io
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from torch.utils.data import DataLoader, Dataset

from dre_ssod.data.images import (
    LARGEST_FILE,
    ImageError,
    check_size,
    decoding,
    files,
    is_unreachable,
    open_picture,
    read_header,
    read_image,
)
from dre_ssod.errors import FileError, SourceError
from tests.data.pictures import PIXELS, save


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
        (lambda path: (path.unlink(), path.symlink_to(path)), "cannot be read: .*levels.*see that"),
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


class _Dying(io.BytesIO):
    """A file of a disk that fails after its first bytes."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 16:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize("read", [read_header, lambda path: read_image(path, "RGB")])
@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
def test_a_file_that_cannot_be_reached_is_told_from_a_damaged_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extension: str,
    read: Callable[[str], object],
) -> None:
    path = Path(save(tmp_path / f"image.{extension}", PillowImage.fromarray(PIXELS)))
    content = path.read_bytes()

    def is_out_of_reach(open_it: Callable[[str], Any] = open_picture) -> bool:
        with monkeypatch.context() as patch:
            for module in (decoding, files):
                patch.setattr(module, "open_picture", open_it)
            with pytest.raises(ImageError) as caught:
                read(str(path))
            return is_unreachable(caught.value)

    def forbidden(_: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    assert is_out_of_reach(forbidden)
    # Of a TIFF file, Pillow takes what the system says for damage.
    assert is_out_of_reach(lambda _: nullcontext(_Dying(content)))
    for damaged in (b"", b"no image", content[:20]):
        path.write_bytes(damaged)
        assert not is_out_of_reach()
    path.unlink()
    assert is_out_of_reach()
    path.mkdir()
    assert not is_out_of_reach()


def test_a_full_disk_is_not_the_fault_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of what is in a store need room."""

    def full(_: str) -> object:
        raise FileError("/cache/copy: cannot be written: No space left on device")

    monkeypatch.setattr(decoding, "open_picture", full)
    for read in (read_header, lambda path: read_image(path, "RGB")):
        with pytest.raises(FileError):
            read("s3://data/a.jpg")


def test_a_damaged_jpeg_is_left_to_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow takes files with a little damage; the strict decoder refuses them."""
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-2] + b"more" + b"\xff\xd9")
    with pytest.raises(ValueError, match="Corrupt JPEG data"):
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
    unreachable: list[bool] = []

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
            unreachable.append(is_unreachable(error))
            return
        header = read_header(str(path))
        assert image.shape == (header.height, header.width, 3)

    check()
    assert messages
    assert not any(unreachable)
    assert all(message.startswith(str(path)) for message in messages)


def test_sizes_that_differ_are_named_and_swapped_ones_explained() -> None:
    check_size("a.jpg", (6, 8, 3), (6, 8))
    with pytest.raises(ImageError, match=r"a\.jpg: the image is 8 x 6 .* says 8 x 7; correct"):
        check_size("a.jpg", (6, 8, 3), (7, 8))
    with pytest.raises(ImageError, match=r"says 6 x 8; the two are swapped: .* EXIF"):
        check_size("a.jpg", (6, 8, 3), (8, 6))


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
