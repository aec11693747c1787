"""What users get wrong: all mistakes, the broken files they use, and the document of both.

``python -m tests.bad_inputs`` writes docs/bad_input.md.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests import ROOT
from tests.bad_config_inputs import ARGUMENTS, CONFIGS, VALUES
from tests.bad_data_inputs import ANNOTATIONS, IMAGES, SOURCES, TOOLS
from tests.bad_input import CONFIG, Outcome, run_in
from tests.tiny_dataset import TinyDataset, tiny_run, write_tiny_dataset

DOCUMENT = ROOT / "docs" / "bad_input.md"
BAD_INPUTS = [*ARGUMENTS, *CONFIGS, *VALUES, *SOURCES, *ANNOTATIONS, *IMAGES, *TOOLS]


def write_bad_files(root: Path) -> None:
    """Write the folder in which all command lines run."""
    write_tiny_dataset(root)
    data = TinyDataset(Path("."))
    settings: dict[str, Any] = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,), "TEST.EVAL_PERIOD": 0}
    cfg = tiny_run(data, Path("runs"), **settings)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("coco://train.json?images=train",)
    cfg.DATASETS.UNLABELED = ("folder://more",)
    files = {
        CONFIG: cfg.dump(),
        "broken.yaml": "SOLVER: [1, 2\n",
        "list.yaml": "- SOLVER\n- 1\n",
        "tag.yaml": "SEED: !!python/object/apply:os.system ['touch pwned']\n",
        "orphan.yaml": "_BASE_: gone.yaml\n",
        "typo.yaml": "SOLVER:\n  MAX_ITERS: 10\n",
        "twice.yaml": "SOLVER:\n  BASE_LR: 0.5\nSOLVER:\n  MAX_ITER: 9\n",
        "broken.json": '{"images": [',
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    _write_annotations(root)
    _write_voc(root)
    folders = ("empty", "used", "damaged", "text", "hollow", "cut", "phone", "pipe")
    for folder in (*folders, "lost/images/train", "lost/labels/train", "order"):
        (root / folder).mkdir(parents=True)
    for name in ("phone/a.heic", "phone/b.HEIC", "lost/labels/train/a.TXT"):
        (root / name).touch()
    os.mkfifo(root / "pipe" / "a.jpg")
    (root / "lost" / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    Image.new("RGB", (8, 8)).save(root / "lost" / "images" / "train" / "a.png")
    for name, text in (("a.txt", "0 0.5 0.5 0.5 0.5\n"), ("classes.txt", "dog\ncat\n")):
        (root / "order" / name).write_text(text)
    Image.new("RGB", (8, 8)).save(root / "order" / "a.png")
    (root / "order" / "data.yaml").write_text("names: [cat, dog]\n")
    (root / "used" / "last_checkpoint").write_text("model_0000001.pth")
    (root / "damaged" / "model_0000001.pth").write_text("not a checkpoint")
    (root / "text" / "notes.jpg").write_text("not an image")
    for number in range(1, 9):
        (root / "hollow" / f"{number}.png").touch()
    whole = (root / "more" / "u0.png").read_bytes()
    (root / "cut" / "whole.png").write_bytes(whole)
    (root / "cut" / "cut.png").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": _Evil()}, root / "evil.pth")


class _Evil:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("pwned"),)


def _write_annotations(root: Path) -> None:
    """Variants of ``train.json``, each with one mistake."""

    def variant(name: str, change: Callable[[dict[str, Any]], None]) -> None:
        content = json.loads((root / "train.json").read_text(encoding="utf-8"))
        change(content)
        (root / name).write_text(json.dumps(content), encoding="utf-8")

    def flatten(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["bbox"] = [5.0, 5.0, 0.0, 10.0]

    def shrink(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["bbox"] = [value / 1000 for value in annotation["bbox"]]

    def mark(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 1

    def enlarge(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["width"] = 640

    variant("none.json", lambda content: content.update(images=[], annotations=[]))
    variant("category.json", lambda content: content["annotations"][0].update(category_id=77))
    variant("box.json", lambda content: content["annotations"][0].update(bbox=[1, 2, 3]))
    variant("twice.json", lambda content: content["images"][1].update(id=1))
    variant("other.json", lambda content: content["categories"][0].update(name="dragon"))
    variant("flat.json", flatten)
    variant("fractions.json", shrink)
    variant("crowds.json", mark)
    variant("escape.json", lambda content: content["categories"][0].update(name="\x1b[31mcat"))
    path = "C:\\data\\1.png"
    variant("windows.json", lambda content: content["images"][0].update(file_name=path))
    variant("size.json", enlarge)


def _write_voc(root: Path) -> None:
    entities = '<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'
    for name, text in (("voc", "<annotation><object>"), ("bomb", entities)):
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / name / folder).mkdir(parents=True)
        (root / name / "Annotations" / "a.xml").write_text(text, encoding="utf-8")
        (root / name / "ImageSets" / "Main" / "train.txt").write_text("a\n", encoding="utf-8")
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / name / "JPEGImages" / "a.png")


def document(outcomes: Sequence[Outcome]) -> str:
    """The tables of docs/bad_input.md."""
    lines = [
        "# What bad input gets",
        "",
        "Every line is a test: exit code 2, this message, no traceback. `DRE_SSOD_TRACEBACK=1`",
        "adds the traceback, which also stands in the run's `log.txt`. Written by",
        "`python -m tests.bad_inputs` from what the programs say; `/data` is the current folder,",
        "`[...]` what a message quotes of Python or another package.",
    ]
    group = ""
    for case, outcome in zip(BAD_INPUTS, outcomes, strict=True):
        if case.group != group:
            group = case.group
            lines += [
                "",
                f"## {group}",
                "",
                "| mistake | command line | message |",
                "|---|---|---|",
            ]
        file = "" if case.config in (None, CONFIG) else f"--config-file {case.config}"
        shown = " ".join(part for part in (_short(case.program), file, case.words) if part)
        cells = [case.mistake, f"`{shown}`", case.own_words(outcome.message)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _short(program: str) -> str:
    return "" if program == "train_net.py" else program


def main() -> None:
    """Run everything and write the document."""
    root = Path(tempfile.mkdtemp()).resolve()
    try:
        write_bad_files(root)
        DOCUMENT.write_text(document([run_in(root, case) for case in BAD_INPUTS]), encoding="utf-8")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
