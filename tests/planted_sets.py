"""Small sound sets for the tests of the audit to plant defects in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dre_ssod.data.audit.audit import Audit, audit

SIZE = (40, 30)
Found = dict[str, list[str]]


@dataclass(frozen=True)
class Planted:
    """A labeled, an unlabeled and a test set; ``annotations`` can be changed before the audit."""

    root: Path

    @property
    def names(self) -> dict[str, list[str]]:
        return {
            "labeled": [f"coco://{self.root}/labeled.json?images={self.root}/labeled"],
            "unlabeled": [f"folder://{self.root}/unlabeled"],
            "test": [f"coco://{self.root}/test.json?images={self.root}/test"],
        }

    def image(self, name: str) -> Path:
        return self.root / name

    def change(self, part: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Let ``change`` edit the content of a JSON file."""
        path = self.root / f"{part}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def add_box(self, box: list[float], part: str = "labeled") -> None:
        entry = {"id": 99, "image_id": 1, "category_id": 1, "bbox": box, "area": 1, "iscrowd": 0}
        self.change(part, lambda content: content["annotations"].append(entry))

    def found(self, level: str = "header") -> Found:
        return by_kind(audit(self.names, level))


def by_kind(report: Audit) -> Found:
    """Items by "kind: sets"."""
    return {
        f"{finding.kind}: {', '.join(finding.sets)}": list(finding.items)
        for finding in report.findings
    }


def draw(path: Path, seed: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def write_planted(root: Path) -> Planted:
    """A sound set: three images a part, the third without boxes, nothing to complain about."""
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for seed, part in enumerate(("labeled", "test", "unlabeled")):
        for number in (1, 2, 3):
            draw(root / part / f"{number}.jpg", seed=10 * seed + number)
        images = [
            {"id": number, "file_name": f"{number}.jpg", "width": SIZE[0], "height": SIZE[1]}
            for number in (1, 2, 3)
        ]
        # Image 3 has no box. The last box ends where the image does.
        boxes = [(1, 1, [2, 3, 4, 9]), (1, 2, [0, 0, 16, 16]), (2, 1, [0, 0, *SIZE])]
        annotations = [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, (image, category, box) in enumerate(boxes, start=1)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{part}.json").write_text(json.dumps(content))
    return Planted(root)
