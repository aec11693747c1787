"""Makes VOC07small, the photographs of docs/tables/voc07small_*.yaml, of PASCAL VOC 2007.

    python -m docs.make_voc07small 'voc://VOC2007?split=test' datasets/VOC07small

Images of VOC's test set, whose labels are public, in the order of the SHA-256 of their file names:
the first 1,000 are test images here, the next 2,000 training images. Each is reduced to a short
side of at most 224 pixels. Writes ``test.json`` and ``train.json`` in COCO's format and ``images``,
as a whole: an interrupted run leaves nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dre_ssod.data.images.decoding import read_image
from dre_ssod.data.records import corners
from dre_ssod.data.sources.catalog import class_names, load_one_labeled
from dre_ssod.errors import SourceError
from dre_ssod.files import open_whole_folder, write_text

PARTS = {"test": 1000, "train": 2000}
SHORT_SIDE = 224


def make(source: str, output: Path, parts: dict[str, int] = PARTS) -> None:
    """Write the set.

    Args:
        source: VOC 2007's test set, of at least as many images as ``parts`` wants.
        output: a folder that does not exist.
        parts: how many images each COCO file gets, in the order in which they are drawn.

    Raises:
        SourceError: if ``output`` exists, or ``source`` has too few images.
    """
    if output.exists():
        raise SourceError(f"{output} exists; choose another folder, or remove it")
    records = sorted(load_one_labeled(source), key=_rank)
    if len(records) < sum(parts.values()):
        raise SourceError(f"{source} has {len(records)} images; {sum(parts.values())} are needed")
    categories = [{"id": n, "name": name} for n, name in enumerate(class_names([source]), start=1)]
    with open_whole_folder(output) as folder:
        (folder / "images").mkdir()
        for part, count in parts.items():
            chosen, records = records[:count], records[count:]
            content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
            for record in sorted(chosen, key=lambda record: str(record["file_name"])):
                _add(record, folder / "images", content)
            write_text(folder / f"{part}.json", json.dumps(content))


def _rank(record: dict[str, Any]) -> str:
    return hashlib.sha256(Path(record["file_name"]).name.encode()).hexdigest()


def _add(record: dict[str, Any], folder: Path, content: dict[str, Any]) -> None:
    """Writes the image in its new size, and adds it with its boxes, to a hundredth of a pixel."""
    name = Path(record["file_name"]).name
    pixels = Image.fromarray(read_image(record["file_name"], "RGB"))
    scale = min(1.0, SHORT_SIDE / min(pixels.size))
    width, height = (round(side * scale) for side in pixels.size)
    pixels.resize((width, height), Image.Resampling.LANCZOS).save(folder / name, quality=92)
    # Splits are drawn by these ids.
    image_id = int(Path(name).stem)
    content["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
    for item in record["annotations"]:
        x1, y1, x2, y2 = corners(item)
        x1, x2 = (x * width / pixels.width for x in (x1, x2))
        y1, y2 = (y * height / pixels.height for y in (y1, y2))
        box = [round(side, 2) for side in (x1, y1, x2 - x1, y2 - y1)]
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": item["category_id"] + 1,
                "bbox": box,
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
            }
        )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", help="VOC 2007's test set, as voc://VOC2007?split=test")
    parser.add_argument("output", type=Path, help="a new folder, as datasets/VOC07small")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse_arguments()
    try:
        make(options.source, options.output)
    except SourceError as error:
        sys.exit(f"error: {error}")
