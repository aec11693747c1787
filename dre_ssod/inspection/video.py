"""A trained detector on a video, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from dre_ssod.errors import FileError, UserError
from dre_ssod.files import PARTIAL
from dre_ssod.inspection.canvas import RGBImage

CODEC = "mp4v"
EXTENSION = ".mp4"


class VideoReader:
    """The frames of a video file.

    Attributes:
        fps: frames per second.
        frames: number of frames that the file claims to have; 0 if it does not say.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: if the file cannot be read as a video.
        """
        # OpenCV waits for ever for a pipe to which nobody writes.
        if not path.is_file():
            raise UserError(
                f"--video-input {str(path)!r}: cannot be read: there is no such file, or it is a "
                "folder, a pipe or a device"
            )
        self._capture = cv2.VideoCapture(str(path))
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        # Many files that are no videos can be opened, and have no frame.
        self._first = self._next()
        if self._first is None or not self.fps > 0:
            self._capture.release()
            raise UserError(
                f"--video-input {str(path)!r}: cannot be read as a video; convert it, for "
                "example to MP4"
            )

    def __iter__(self) -> Iterator[RGBImage]:
        """The frames in turn, (H, W, 3) uint8 RGB; up to the end, or to where the file breaks.

        They can be gone through once.
        """
        frame, self._first = self._first, None
        while frame is not None:
            yield frame
            frame = self._next()
        self._capture.release()

    def _next(self) -> RGBImage | None:
        ok, frame = self._capture.read()
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8) if ok else None


class VideoWriter:
    """Writes frames of one size to an MP4 file; a context manager.

    The file is there once all of it is written; leaving the block raises a FileError if it is not.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        # The extension says the format.
        self._partial = path.with_name(f".{path.stem}{PARTIAL}{path.suffix}")
        self._fps = fps
        self._written = 0
        self._writer: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is None:
            return
        self._writer.release()
        try:
            if error is None:
                self._check_whole()
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _check_whole(self) -> None:
        """OpenCV's writer does not say that a disk is full; the index of the file does.

        Raises:
            FileError: if the file does not hold the frames that were written.
        """
        capture = cv2.VideoCapture(str(self._partial))
        frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()
        if frames != self._written:
            raise FileError(
                f"{self._path}: could not be written whole: the file has {frames} of "
                f"{self._written} frames, as where the disk or a quota is full. It was removed: "
                "make room, or name another place, and start again"
            )

    def write(self, frame: RGBImage) -> None:
        """Append a frame (H, W, 3), RGB; the first one sets the size of the video.

        Raises:
            OSError: if the file cannot be written.
        """
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            size = (frame.shape[1], frame.shape[0])
            codec = cv2.VideoWriter.fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._partial), codec, self._fps, size)
            if not self._writer.isOpened():
                raise OSError(f"could not write the video {self._path}")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._written += 1
