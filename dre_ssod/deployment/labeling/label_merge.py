"""From the finished chunks of a labeling job to one COCO file and the list of images to label next.

Chunks are read twice and lines written as they come: nothing grows with the number of images.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from dre_ssod.data.records import identify_files
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.data.sources.opening import open_source
from dre_ssod.data.sources.programs.labels import ProgramSource
from dre_ssod.data.sources.shards import ShardSource
from dre_ssod.data.sources.uri import is_uri
from dre_ssod.data.text_files import read_json
from dre_ssod.deployment.labeling.label_chunks import (
    ERROR,
    UNREACHED,
    clear_unfinished,
    read_chunks,
)
from dre_ssod.deployment.labeling.label_manifest import full_name, open_images
from dre_ssod.deployment.labeling.labeling_job import LabelingJob, open_manifest
from dre_ssod.deployment.labeling.uncertainty import MostUncertain
from dre_ssod.errors import ConfigError
from dre_ssod.files import open_whole, write_text

RESULT = "pseudo_labels.json"
DETECTIONS = "detections.json"
"""The same boxes as a list of results, as pycocotools' ``loadRes`` takes it."""
LABEL_NEXT = "label_next.json"
LABEL_NEXT_NAMES = "label_next.txt"
SKIPPED = "skipped.jsonl"
LEFT = "unreached.jsonl"
MERGED = ".merged.json"
"""Says which of the processes of a job has merged last, with what arguments."""
_NAMED = 3
"""How many of the images that could not be reached a summary names."""


@dataclass(frozen=True)
class MergeSummary:
    """What the result of a job holds; ``excluded`` of its images were not to be listed.

    ``unreached`` ones are to be tried again, of which ``first_unreached`` are the first few.
    """

    images: int
    boxes: int
    skipped: int
    listed: int
    excluded: int
    unreached: int = 0
    first_unreached: Sequence[str] = ()


def merge(
    job: LabelingJob, label_next: int, criterion: str, excluded: Collection[str] = ()
) -> MergeSummary:
    """Write ``pseudo_labels.json``, ``detections.json``, ``label_next.json``, its paths as
    ``label_next.txt`` and, where images could not be read or reached, ``skipped.jsonl`` and
    ``unreached.jsonl`` in the job's folder.

    Args:
        label_next: how many images are listed at most.
        criterion: a measure of :func:`dre_ssod.deployment.labeling.uncertainty.image_uncertainty`.
        excluded: real paths of images that are not listed.

    Raises:
        ConfigError: if the model has no such measure.
        FileNotFoundError: if a chunk was never tried.
    """
    manifest = open_manifest(job.folder)
    chunks = len(manifest.offsets)
    chosen, identify = MostUncertain(label_next), identify_files()
    header = {"description": "pseudo-labels", "source": job.source, "images_in": manifest.root}
    with (
        open_whole(job.folder / RESULT) as out,
        open_whole(job.folder / DETECTIONS) as found,
        open_whole(job.folder / SKIPPED) as skipped,
        open_whole(job.folder / LEFT) as left,
    ):
        out.write(b'{"info": %b,\n"categories": %b' % (_json(header), _json(job.categories)))
        images = _Array(out, b',\n"images": [')
        broken = unreached = left_out = 0
        first: list[str] = []
        for line in read_chunks(job.folder, chunks):
            if UNREACHED in line:
                unreached += 1
                left.write(_json(line) + b"\n")
                if len(first) < _NAMED:
                    first.append(full_name(manifest.root, line["file_name"]))
                continue
            if ERROR in line:
                broken += 1
                skipped.write(_json(line) + b"\n")
                continue
            image = {name: line[name] for name in ("id", "file_name", "width", "height")}
            images.write(image)
            if excluded and identify(full_name(manifest.root, line["file_name"])) in excluded:
                left_out += 1
                continue
            value = _value(line["uncertainty"], criterion)
            chosen.add(value, {**image, **line["uncertainty"]})
        images.close()
        annotations, detections = _Array(out, b',\n"annotations": ['), _Array(found, b"[")
        for line in read_chunks(job.folder, chunks):
            for box in line.get("boxes", ()):
                annotations.write({"id": annotations.count + 1, "image_id": line["id"], **box})
                result = {key: box[key] for key in ("category_id", "bbox", "score")}
                detections.write({"image_id": line["id"], **result})
        annotations.close()
        detections.close()
        out.write(b"}\n")
        found.write(b"\n")
    for count, name in ((broken, SKIPPED), (unreached, LEFT)):
        if count == 0:
            (job.folder / name).unlink()
    clear_unfinished(job.folder, chunks)
    ranked = chosen.ranked()
    listed = json.dumps({"criterion": criterion, "images": ranked}, indent=1)
    write_text(job.folder / LABEL_NEXT, listed)
    paths = [full_name(manifest.root, image["file_name"]) for image in ranked]
    write_text(job.folder / LABEL_NEXT_NAMES, "".join(f"{path}\n" for path in paths))
    return MergeSummary(
        images.count, annotations.count, broken, len(ranked), left_out, unreached, first
    )


def note_merge(folder: Path, arguments: Mapping[str, Any], summary: MergeSummary) -> None:
    """Tell processes that wait to merge that it is done."""
    note = {"by": secrets.token_hex(8), "arguments": arguments, "summary": asdict(summary)}
    write_text(folder / MERGED, json.dumps(note))


def last_merge(folder: Path) -> dict[str, Any]:
    """What :func:`note_merge` has written last; empty before."""
    path = folder / MERGED
    return read_json(path) if path.exists() else {}


def merge_since(
    folder: Path, before: Mapping[str, Any], arguments: Mapping[str, Any]
) -> MergeSummary | None:
    """The summary of a merge with these arguments that another process has made meanwhile.

    None also if images were left: this process may have reached them later.

    Args:
        before: :func:`last_merge` when this process began.
    """
    note = last_merge(folder)
    if not note or note == before or note["arguments"] != arguments:
        return None
    summary = MergeSummary(**note["summary"])
    return None if summary.unreached else summary


def real_paths(sources: Sequence[str]) -> set[str]:
    """Of the images of folders and data sets; of one that may be labeled in part, the labeled ones.

    Raises:
        SourceError: if there is no such source, no image in it, or its labels cannot be read.
    """
    identify = identify_files()
    return {identify(name) for source in sources for name in _names(source)}


def _names(source: str) -> Iterator[str]:
    opened = open_source(source) if is_uri(source) else None
    in_part = isinstance(opened, CocoSource) and opened.empty == "unlabeled"
    if opened is not None and (in_part or isinstance(opened, ProgramSource)):
        return (record["file_name"] for record in opened.labeled(Remarks()))
    if isinstance(opened, ShardSource):
        records = opened.images(Remarks())
        labeled = [r for n, r in enumerate(records) if records.label(n) is not None]
        # Shards without any label are an unlabeled set, of which all is meant.
        return (record["file_name"] for record in labeled or records)
    images = open_images(source)
    return (full_name(images.root, entry.file_name) for entry in images.entries)


def _value(uncertainty: dict[str, float], criterion: str) -> float:
    if criterion not in uncertainty:
        raise ConfigError(
            f"--label-next-by is {criterion!r}, but the model has no variance branch: use "
            f"{', '.join(uncertainty)}"
        )
    return uncertainty[criterion]


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


class _Array:
    """An array of JSON, written one entry a line."""

    def __init__(self, file: IO[bytes], opening: bytes) -> None:
        self.file = file
        self.count = 0
        file.write(opening)

    def write(self, entry: dict[str, Any]) -> None:
        self.file.write((b",\n" if self.count else b"\n") + _json(entry))
        self.count += 1

    def close(self) -> None:
        self.file.write(b"\n]")
