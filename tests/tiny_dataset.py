"""A data set of a few drawn images, for tests that train."""

from __future__ import annotations

import functools
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from PIL import Image

from tests.factories import FEWER_LAYERS, NUM_CLASSES, SIZE, draw, tiny_cfg


@dataclass(frozen=True)
class TinyDataset:
    """URIs: eight labeled images, and a folder of four more.

    Attributes:
        root: folder with ``train``, ``more`` and ``train.json``.
    """

    root: Path

    @property
    def labeled(self) -> str:
        return f"coco://{self.root}/train.json?images={self.root}/train"

    @property
    def unlabeled(self) -> str:
        return f"folder://{self.root}/more"


def write_tiny_dataset(root: Path) -> TinyDataset:
    """Write the images, and their boxes as COCO JSON."""
    for name, content in _files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return TinyDataset(root)


@functools.cache
def _files() -> dict[str, bytes]:
    """By their names; drawn once."""
    rng = np.random.default_rng(7)
    files, images, annotations = {}, [], []
    for number in range(1, 9):
        boxes = _boxes(rng)
        name = f"{number}.png"
        files[f"train/{name}"] = _drawn(boxes, seed=number)
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 + index % NUM_CLASSES,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    for number in range(4):
        files[f"more/u{number}.png"] = _drawn(_boxes(rng), seed=100 + number)
    categories = [{"id": n + 1, "name": f"class{n}"} for n in range(NUM_CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return {**files, "train.json": json.dumps(content).encode()}


def tiny_run(data: TinyDataset, output_dir: Path, **overrides: object) -> CfgNode:
    """A config that trains four iterations of 2 + 2 images, half of the labels hidden."""
    cfg = tiny_cfg(**FEWER_LAYERS)
    # Taken from the data.
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.001
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (data.labeled,)
    cfg.DATASETS.UNLABELED = (data.unlabeled,)
    cfg.DATASETS.LABELED_PERCENT = 50.0
    cfg.SSOD.LABELED_TO_UNLABELED = (1, 1)
    cfg.SSOD.SCORE_THRESHOLD = 0.2
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.BASE_LR = 0.001
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.MAX_ITER = 4
    cfg.SOLVER.STEPS = (3,)
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.TEST.EVAL_PERIOD = 2
    cfg.SEED = 3
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.merge_from_list([item for pair in overrides.items() for item in pair])
    return cfg


@contextmanager
def loggers_kept() -> Iterator[None]:
    """Undo what starting a run does to the loggers: handlers on files, no propagation."""
    loggers = [logging.getLogger(name) for name in ("dre_ssod", "detectron2", "fvcore")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            for handler in logger.handlers:
                if handler not in handlers:
                    handler.close()
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(level)
        # It takes a second run in a folder for the first one, whose handlers are gone.
        setup_logger.cache_clear()


def _boxes(rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """Three boxes, one in each third of the image."""
    third = SIZE[1] // 3
    found = []
    for number in range(3):
        side = int(rng.integers(12, 28))
        x, y = number * third + int(rng.integers(0, 4)), int(rng.integers(0, SIZE[0] - side))
        found.append((float(x), float(y), float(x + side), float(y + side)))
    return found


def _drawn(boxes: list[tuple[float, float, float, float]], seed: int) -> bytes:
    """An image as PNG."""
    image = draw(SIZE, boxes, seed=seed).permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
