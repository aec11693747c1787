"""Videos survive a round trip, and what is no video is refused."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dre_ssod.errors import FileError, UserError
from dre_ssod.inspection.video import VideoReader, VideoWriter

COLORS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def write(path: Path, fps: float = 12.0) -> None:
    with VideoWriter(path, fps) as writer:
        for color in COLORS:
            writer.write(np.full((48, 64, 3), color, np.uint8))


def test_frames_come_back_in_order_and_in_rgb(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    write(path)
    video = VideoReader(path)
    assert (video.fps, video.frames) == (12.0, 3)
    frames = list(video)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    for frame, color in zip(frames, COLORS, strict=True):
        np.testing.assert_allclose(frame.reshape(-1, 3).mean(axis=0), color, atol=12)


@pytest.mark.parametrize("content", [b"", b"rubbish"])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4.*cannot be read as a video"):
        VideoReader(path)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "make", [lambda path: None, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")]
)
def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"a\.mp4.*cannot be read: there is no such file, or it is"):
        VideoReader(tmp_path / "a.mp4")


def test_without_frames_nothing_is_written(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 5.0):
        pass
    assert not list(tmp_path.iterdir())


def test_an_interrupted_video_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")

    def write_and_stop() -> None:
        with VideoWriter(path, 5.0) as writer:
            writer.write(np.zeros((48, 64, 3), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_video_that_a_full_disk_cut_is_no_result(tmp_path: Path) -> None:
    """OpenCV's writer goes on as if nothing were; a bound on files stands for the disk."""
    path, rng = tmp_path / "a.mp4", np.random.default_rng(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write_noise() -> None:
        with VideoWriter(path, 10.0) as writer:
            for _ in range(20):
                writer.write(rng.integers(0, 256, (96, 128, 3), np.uint8))

    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(FileError, match=r"a\.mp4: could not be written whole: .* of 20 frames"):
            write_noise()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    write_noise()
    assert len(list(VideoReader(path))) == 20
