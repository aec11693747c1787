from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock, call

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dre_ssod.data.audit.files import (
    CHUNK,
    MIN_FILES_FOR_POOL,
    TAIL_BYTES,
    check_file,
    check_files,
    useful_workers,
)
from dre_ssod.data.images import ImageError, read_image

FORMATS = ("jpg", "png", "webp", "bmp", "tif")
ORIENTATION = 0x0112


def write_noise(
    path: Path, size: tuple[int, int] = (40, 30), seed: int = 0, **options: object
) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("level", ["header", "full"])
@pytest.mark.parametrize("extension", FORMATS)
def test_a_sound_file(tmp_path: Path, extension: str, level: str) -> None:
    path = write_noise(tmp_path / f"a.{extension}")
    check = check_file(str(path), level)
    assert (check.status, check.reason, check.odd_end) == ("ok", "", False)
    assert (check.width, check.height, check.mode, check.orientation) == (40, 30, "RGB", 1)
    assert check.bytes == path.stat().st_size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_size_is_that_of_the_decoded_image(
    tmp_path: Path, extension: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = write_noise(tmp_path / f"a.{extension}", exif=exif)
    check = check_file(str(path))
    assert check.orientation == orientation
    assert (check.height, check.width) == read_image(str(path), "RGB").shape[:2]


@pytest.mark.parametrize("level", ["header", "full"])
@pytest.mark.parametrize("extension", FORMATS)
def test_a_file_that_lost_its_end_is_found_without_decoding_the_others(
    tmp_path: Path, extension: str, level: str
) -> None:
    path = write_noise(tmp_path / f"a.{extension}", size=(64, 64))
    path.write_bytes(path.read_bytes()[:-700])
    check = check_file(str(path), level)
    # How Pillow words it differs from format to format.
    assert check.status in ("truncated", "unreadable")
    assert check.reason
    assert str(path) not in check.reason
    if extension in ("jpg", "png", "bmp"):
        assert check.status == "truncated"


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image at all")
    (tmp_path / "folder.jpg").mkdir()
    found = {
        name: check_file(str(tmp_path / f"{name}.jpg")).status
        for name in ("empty", "text", "folder", "gone")
    }
    assert found == {
        "empty": "empty",
        "text": "unreadable",
        "folder": "unreadable",
        "gone": "missing",
    }
    assert check_file(str(tmp_path / "text.jpg" / "a.jpg")).status == "missing"


def test_bytes_behind_the_end_are_odd_but_no_loss(tmp_path: Path) -> None:
    for extension in ("jpg", "png"):
        path = write_noise(tmp_path / f"a.{extension}")
        path.write_bytes(path.read_bytes() + b"more")
        check = check_file(str(path))
        assert (check.status, check.odd_end, check.width) == ("ok", True, 40)


def test_damage_in_the_middle_takes_decoding_to_find(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert check_file(str(path), "header").status == "ok"
    assert check_file(str(path), "full").status == "unreadable"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(0, 3000),
    st.binary(max_size=6),
    st.floats(0, 1),
)
def test_full_agrees_with_what_training_reads(
    extension: str, cut: int, patch: bytes, place: float
) -> None:
    with TemporaryDirectory() as folder:
        path = write_noise(Path(folder) / f"a.{extension}")
        content = bytearray(path.read_bytes())
        content = content[: max(0, len(content) - cut)]
        start = int(place * len(content))
        content[start : start + len(patch)] = patch
        path.write_bytes(content)
        check = check_file(str(path), "full")
        try:
            shape = read_image(str(path), "RGB").shape
        except ImageError:
            assert check.status in ("empty", "truncated", "unreadable")
        else:
            assert check.status == "ok"
            assert (check.height, check.width) == shape[:2]


def test_an_unknown_pixel_range_is_refused_by_name(tmp_path: Path) -> None:
    Image.new("F", (8, 6)).save(tmp_path / "a.tif")
    path = str(tmp_path / "a.tif")
    with pytest.raises(ImageError) as refusal:
        read_image(path, "RGB")
    check = check_file(path)
    assert (check.status, f"{path}: {check.reason}") == ("unreadable", str(refusal.value))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12))
def test_equal_contents_are_grouped(contents: list[int]) -> None:
    with TemporaryDirectory() as folder:
        expected = defaultdict(list)
        for number, content in enumerate(contents):
            path = Path(folder) / f"{number}.jpg"
            # All have the same length; 0 and 1 have the same tail too, 4 is empty.
            body = bytes([content % 4 > 0]) + b"x" * TAIL_BYTES + bytes([max(content, 1)])
            path.write_bytes(b"" if content == 4 else body)
            if content < 4:
                expected[content].append(str(path))
        paths = [str(Path(folder) / f"{number}.jpg") for number in range(len(contents))]
        _, groups = check_files(paths)
        assert sorted(groups) == sorted(group for group in expected.values() if len(group) > 1)


def test_processes_change_nothing_but_the_time(tmp_path: Path) -> None:
    for number in range(CHUNK):
        write_noise(tmp_path / f"{number}.jpg", size=(9, 7), seed=number)
        shutil.copy(tmp_path / f"{number}.jpg", tmp_path / f"copy{number}.jpg")
    paths = sorted(map(str, tmp_path.iterdir()))
    bar = Mock()
    alone = check_files(paths, progress=bar)
    assert check_files(paths, workers=2) == alone
    assert bar.method_calls == [call.reset(2 * CHUNK), call.update(CHUNK), call.update(CHUNK)]
    assert len(alone[1]) == CHUNK
    assert [check.status for check in alone[0]] == ["ok"] * (2 * CHUNK)


def test_no_more_processes_than_there_is_work() -> None:
    assert useful_workers(MIN_FILES_FOR_POOL - 1, "header", 8) == 1
    assert useful_workers(MIN_FILES_FOR_POOL, "header", 8) == 8
    assert useful_workers(3 * CHUNK, "full", 8) == 3
    assert useful_workers(0, "full", 8) == 1
