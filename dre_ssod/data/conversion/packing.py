"""Images packed into tar files, with or without their labels; see ``sources.shards``."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from dre_ssod.data.images import ImageError, open_picture
from dre_ssod.data.sources.catalog import class_names, load_one_labeled, load_unlabeled
from dre_ssod.data.sources.folder import is_image_name
from dre_ssod.data.sources.shards.labels import label_text
from dre_ssod.data.sources.shards.source import CLASSES_FILE
from dre_ssod.data.sources.uri import encode
from dre_ssod.errors import SourceError
from dre_ssod.files import open_whole_folder
from dre_ssod.stores import Place, new_folder

_DIGITS = 6


@dataclass(frozen=True)
class Packed:
    """What was written: the numbers of images and shards, and the URI that reads them."""

    images: int
    shards: int
    uri: str


def pack(
    source: str,
    output: Path,
    name: str,
    per_shard: int,
    labels: bool,
    place: Place | None = None,
) -> Packed:
    """Write the images of a dataset as shards, in its order; their bytes stay as they are.

    Args:
        source: name or URI.
        output: folder for the shards; it must be empty or not exist. It appears when all is
            written.
        name: what the names of shards begin with.
        per_shard: images in each but the last.
        labels: whether to write labels too.
        place: where the folder is put afterwards, for the URI; it stays if None.

    Raises:
        SourceError: if the source cannot be read, or an image is missing. Nothing is left then.
        ConfigError: if ``output`` is not empty.
        FileError: if something cannot be written. Nothing is left then.
        StoreError: if a store cannot be asked.
    """
    new_folder(output)
    classes = class_names([source]) if labels else []
    records = load_one_labeled(source) if labels else load_unlabeled([source])
    if not records:
        raise SourceError(f"{source}: there is no image in it")
    starts = range(0, len(records), per_shard)
    with open_whole_folder(output) as folder:
        if labels:
            (folder / CLASSES_FILE).write_text("".join(f"{c}\n" for c in classes), encoding="utf-8")
        with tqdm(total=len(records), desc="images", unit="image", disable=None) as progress:
            for number, start in enumerate(starts):
                part = records[start : start + per_shard]
                with tarfile.open(folder / f"{name}-{number:0{_DIGITS}}.tar", "w") as tar:
                    _write(tar, part, start, classes if labels else None)
                progress.update(len(part))
    last = f"{len(starts) - 1:0{_DIGITS}}"
    numbers = f"{{{'0' * _DIGITS}..{last}}}" if len(starts) > 1 else last
    uri = f"shards://{encode(place or output)}/{name}-{numbers}.tar"
    return Packed(len(records), len(starts), uri)


def _write(
    tar: tarfile.TarFile,
    records: Sequence[dict[str, Any]],
    first: int,
    classes: Sequence[str] | None,
) -> None:
    keys = _keys([record["file_name"] for record in records], first)
    for record, key in zip(records, keys, strict=True):
        file = record["file_name"]
        suffix = PurePosixPath(file).suffix.lower()
        if not is_image_name(f"image{suffix}"):
            raise SourceError(f"{file}: shards do not take this extension; convert the image")
        try:
            with open_picture(file) as stream:
                size = stream.seek(0, 2)
                stream.seek(0)
                _add(tar, f"{key}{suffix}", size, stream)
        except (FileNotFoundError, ImageError) as error:
            if isinstance(error, ImageError):
                raise
            raise SourceError(f"{file}: the image is missing") from error
        if classes is not None:
            text = label_text(record, classes).encode()
            _add(tar, f"{key}.json", len(text), io.BytesIO(text))


def _add(tar: tarfile.TarFile, name: str, size: int, content: Any) -> None:
    # Nothing but name and size: the same images give the same shard.
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, content)


def _keys(files: Sequence[str], first: int) -> list[str]:
    """Names without extension and without any dot, which WebDataset would take for one.

    Numbered from ``first`` on where the files' own do not differ.
    """
    stems = [PurePosixPath(file).stem.replace(".", "_") for file in files]
    repeated = {stem for stem, count in Counter(stems).items() if count > 1}
    if not repeated:
        return stems
    return [f"{number:09d}_{stem}" for number, stem in enumerate(stems, first)]
