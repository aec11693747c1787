"""The built-in sample set: a small detection problem that the project draws itself.

    ROOT/labeled/*.png      ROOT/annotations/labeled.json
    ROOT/unlabeled/*.png    ROOT/annotations/unlabeled_truth.json (diagnostics only: no training)
    ROOT/val/*.png          ROOT/annotations/val.json
    ROOT/sample_set.json    version, seed, counts and the SHA-256 of all the rest

The same seed gives the same bytes everywhere: scenes are integer arithmetic, and the PNG files are
stored without compression, because compressed bytes depend on the compression library's version.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dre_ssod.data.sample.scenes import Scene, draw_scene
from dre_ssod.data.sample.shapes import HEIGHT, SHAPES, WIDTH, RandomStream
from dre_ssod.data.text_files import read_json
from dre_ssod.errors import SourceError
from dre_ssod.stores import is_taken

CLASS_NAMES: tuple[str, ...] = tuple(SHAPES)
SAMPLE_SET_VERSION = 2
DESCRIPTION_FILE = "sample_set.json"


@dataclass(frozen=True)
class Part:
    """One part of the set: image folder, annotation file, size, and whether images may be empty."""

    name: str
    annotation_file: str
    image_count: int
    allow_empty: bool

    @property
    def image_names(self) -> list[str]:
        """Of the image files, in order."""
        return [f"{number:04d}.png" for number in range(self.image_count)]


PARTS: tuple[Part, ...] = (
    Part("labeled", "labeled.json", 40, allow_empty=False),
    Part("unlabeled", "unlabeled_truth.json", 400, allow_empty=True),
    Part("val", "val.json", 120, allow_empty=True),
)

_verified: set[Path] = set()
"""Roots whose files this process has compared with their hash."""

logger = logging.getLogger(__name__)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STORED_BLOCK_SIZE = 65535
_INSTALL_TRIES = 5


def ensure_sample_set(root: Path, seed: int = 0) -> None:
    """Generate the set unless ``root`` already holds it, whole, with this version and seed.

    What is damaged or changed is renamed, not removed: somebody may have changed it on purpose.

    Raises:
        FileExistsError: if ``root`` holds something else.
        OSError: if it cannot be written.
    """
    if not _is_current(root, seed):
        generate_sample_set(root, seed)


def generate_sample_set(root: Path, seed: int = 0) -> None:
    """Write the whole set under ``root``, replacing an older sample set there.

    Everything is written to a temporary sibling folder first and then renamed, so that ``root`` is
    never half a set and several processes may generate at once.

    Raises:
        FileExistsError: if ``root`` holds something else than a sample set.
        OSError: if it cannot be written.
        ValueError: if the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be an integer of at least 0")
    root = Path(root).resolve()
    _check_replaceable(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(root)
    try:
        _write_set(temporary, seed)
        _install(temporary, root, seed)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_current(root: Path, seed: int) -> bool:
    """Whether ``root`` holds the set of this version and seed, byte for byte."""
    description = _read_description(Path(root))
    if description is None or not _is_of(description, seed):
        return False
    if root in _verified:
        return True
    try:
        whole = description["sha256"] == content_hash(root) and not _strangers(root)
    except (FileNotFoundError, NotADirectoryError):
        whole = False
    if whole:
        _verified.add(root)
    return whole


def _is_of(description: dict[str, Any], seed: int) -> bool:
    return (description["version"], description["seed"]) == (SAMPLE_SET_VERSION, seed)


def _strangers(root: Path) -> list[Path]:
    """Images in the folders of the set that are not of it."""
    return [
        path
        for part in PARTS
        for path in (root / part.name).iterdir()
        if path.name not in part.image_names and not path.name.startswith(".")
    ]


def _read_description(root: Path) -> dict[str, Any] | None:
    """The description of the sample set at ``root``, or None where there is none."""
    try:
        description = read_json(root / DESCRIPTION_FILE)
    except SourceError:
        return None
    is_ours = isinstance(description, dict) and {"version", "seed", "sha256"} <= description.keys()
    return description if is_ours else None


def _check_replaceable(root: Path) -> None:
    """Never delete what is no sample set."""
    if is_taken(root) and _read_description(root) is None:
        raise FileExistsError(
            f"{root} exists and is no sample set (no valid {DESCRIPTION_FILE} in it); "
            "name a new or empty folder, or remove it yourself"
        )


def _sibling(root: Path) -> Path:
    return root.parent / f".{root.name}.{os.getpid()}-{secrets.token_hex(4)}"


def _install(temporary: Path, root: Path, seed: int) -> None:
    """Rename the finished set to ``root``; another process may be doing the same."""
    for _ in range(_INSTALL_TRIES):
        try:
            temporary.rename(root)
            return
        except OSError:
            if not root.exists():
                raise
        if _is_current(root, seed):
            return
        _check_replaceable(root)
        description = _read_description(root)
        retired = _sibling(root)
        try:
            root.rename(retired)
        except FileNotFoundError:
            continue
        if description is None or not _is_of(description, seed):
            shutil.rmtree(retired)
            continue
        kept = root.with_name(f"{root.name}_{retired.name.rpartition('.')[2]}")
        retired.rename(kept)
        logger.warning(
            "The sample set in %s was damaged or changed: it is drawn again; what was there is now "
            "in %s",
            root,
            kept,
        )
    raise FileExistsError(
        f"{root} keeps being replaced by other processes; use one seed for a folder"
    )


def _write_set(root: Path, seed: int) -> None:
    (root / "annotations").mkdir(parents=True)
    first_id = 1
    for index, part in enumerate(PARTS):
        folder = root / part.name
        folder.mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, file_name in enumerate(part.image_names):
            scene = draw_scene(RandomStream(seed, index, number), part.allow_empty)
            image_id = first_id + number
            (folder / file_name).write_bytes(encode_png(scene.image))
            images.append(
                {"id": image_id, "file_name": file_name, "height": HEIGHT, "width": WIDTH}
            )
            annotations.extend(_annotations(scene, image_id, len(annotations) + 1))
        first_id += part.image_count
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASS_NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        _write_json(root / "annotations" / part.annotation_file, content)
    description = {
        "version": SAMPLE_SET_VERSION,
        "seed": seed,
        "images": {part.name: part.image_count for part in PARTS},
        "sha256": content_hash(root),
    }
    _write_json(root / DESCRIPTION_FILE, description)


def _annotations(scene: Scene, image_id: int, first_id: int) -> Iterator[dict[str, Any]]:
    """COCO entries; ``area`` is that of the visible part of the shape."""
    for number, item in enumerate(scene.objects):
        x1, y1, x2, y2 = item.box
        yield {
            "id": first_id + number,
            "image_id": image_id,
            "category_id": item.category + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": item.visible_area,
            "iscrowd": 0,
        }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(json.dumps(content, sort_keys=True).encode("ascii") + b"\n")


def content_hash(root: Path) -> str:
    """SHA-256 over the names and bytes of all images and annotation files, in order of name."""
    files = [root / "annotations" / part.annotation_file for part in PARTS]
    for part in PARTS:
        files += [root / part.name / name for name in part.image_names]
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        content = path.read_bytes()
        digest.update(f"{name}\n{len(content)}\n".encode("ascii"))
        digest.update(content)
    return digest.hexdigest()


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """PNG bytes of an RGB image (H, W, 3) uint8, stored without compression."""
    height, width, _ = image.shape
    rows = image.reshape(height, width * 3)
    scanlines = np.concatenate([np.zeros((height, 1), dtype=np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", _stored_zlib(scanlines)), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(_png_chunk(kind, content) for kind, content in chunks)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _stored_zlib(data: bytes) -> bytes:
    """A zlib stream of stored blocks: a last-block flag, the length, its complement, the bytes."""
    parts = [b"\x78\x01"]
    for start in range(0, len(data), _STORED_BLOCK_SIZE):
        block = data[start : start + _STORED_BLOCK_SIZE]
        last = start + _STORED_BLOCK_SIZE >= len(data)
        parts.append(struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block)
    return b"".join(parts) + struct.pack(">I", zlib.adler32(data))
