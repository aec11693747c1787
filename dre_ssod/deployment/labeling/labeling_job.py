"""A labeling job on disk: its settings, its list of images, its chunks.

Its folder holds ``settings.json``, ``manifest.jsonl`` and ``chunks/000000.jsonl`` and so on, one
line per image (:mod:`.label_chunks`). A chunk is written whole, so a job that was interrupted
continues with the chunks that are missing. Any number of processes may work in the folder at a
time, on any machines that share it, come later and be killed: the result is the same to the last
byte.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dre_ssod.deployment.labeling.label_chunks import CHUNKS
from dre_ssod.deployment.labeling.label_manifest import Manifest, open_images, searched_folder
from dre_ssod.deployment.trained_model import Category, device_of
from dre_ssod.errors import ConfigError
from dre_ssod.files import clear_partial, final_name, write_text
from dre_ssod.locks import taking_turns
from dre_ssod.runs.resuming import default_settings, settings_of
from dre_ssod.stores import StorePath, weights_file

SETTINGS = "settings.json"
MANIFEST = "manifest.jsonl"
CLAIMS = ".chunks.lock"
LOCK = ".labeling.lock"
"""Held to start a job and to merge its chunks."""
REST_SECONDS = 3600.0
"""Age from which a file that is not whole is what a killed process left."""
_UNRELATED = (
    *("VERSION", "SEED", "DATALOADER.", "SOLVER.", "TEST.EVAL_PERIOD", "MODEL.WEIGHTS"),
    "TEST.IMS_PER_BATCH",
)
"""Keys of training alone, and keys for which a job has settings of its own."""


@dataclass(frozen=True)
class LabelingJob:
    """What is to be labeled, and how.

    Attributes:
        folder: of the job.
        source: a folder of images, or a dataset's name or URI.
        categories: the model's classes.
        min_score: lowest foreground score of a box that is written.
        uncertain_score: lowest score of a box that counts in an image's uncertainty.
        batch_images: images of a forward pass.
        chunk_images: images of a file.
        model: "teacher" or "student".
        views: whether each image is looked at a second time, mirrored.
    """

    folder: Path
    source: str
    categories: list[Category]
    min_score: float
    uncertain_score: float
    batch_images: int
    chunk_images: int
    model: str = "teacher"
    views: bool = False

    def settings(self, cfg: CfgNode) -> dict[str, Any]:
        """All that the result depends on, by name, as JSON keeps it.

        Of the config, the keys that are not at their default: a key that did not exist when a job
        was started does not stop it.
        """
        defaults = default_settings()
        keys = {
            key: value
            for key, value in settings_of(cfg).items()
            if value != defaults[key] and not key.startswith(_UNRELATED)
        }
        settings = {
            "source": self.source,
            "weights_sha256": weights_sha256(cfg.MODEL.WEIGHTS),
            "device": device_of(cfg).partition(":")[0],
            "categories": self.categories,
            "min_score": self.min_score,
            "uncertain_score": self.uncertain_score,
            "batch_images": self.batch_images,
            "chunk_images": self.chunk_images,
            # As for a key of the config: a job of before the choice is one of the teacher.
            **({} if self.model == "teacher" else {"model": self.model}),
            **({"views": True} if self.views else {}),
            **keys,
        }
        as_read: dict[str, Any] = json.loads(json.dumps(settings))
        return as_read


def prepare(job: LabelingJob, cfg: CfgNode) -> Manifest:
    """Start a job, or join the one that others have started; processes wait for each other here.

    Raises:
        ConfigError: if the folder holds another job or anything else, or is one of those that are
            searched for images.
        SourceError: if there are no images.
    """
    _check_outside(job)
    settings = job.settings(cfg)
    path = job.folder / SETTINGS
    # What a job leaves that was interrupted before its list of images was whole.
    unfinished = (MANIFEST, SETTINGS, LOCK)
    if (
        job.folder.exists()
        and not path.exists()
        and any(final_name(p) not in unfinished for p in job.folder.iterdir())
        # Another process may have started the job meanwhile.
        and not path.exists()
    ):
        raise ConfigError(f"{job.folder} is not empty and holds no job: choose another --output")
    job.folder.mkdir(parents=True, exist_ok=True)
    with taking_turns(job.folder / LOCK):
        if joins := path.exists():
            _compare(job.folder, settings)
        else:
            images = open_images(job.source)
            manifest = Manifest.write(job.folder / MANIFEST, images, job.chunk_images)
            # Last, so that a folder with settings has a whole manifest.
            content = {**settings, "manifest": manifest.as_dict()}
            write_text(path, json.dumps(content, indent=1))
        (job.folder / CHUNKS).mkdir(exist_ok=True)
        for folder in (job.folder, job.folder / CHUNKS):
            clear_partial(folder, lambda _: True, REST_SECONDS)
        manifest = open_manifest(job.folder)
    # The same words lead elsewhere from another working folder.
    if joins and not manifest.is_of(job.source):
        raise ConfigError(
            f"{job.folder} holds a job of the images in {manifest.place}, and --input "
            f"{job.source} names others here. Choose another --output, or repeat the command in "
            "the folder where the job was started."
        )
    return manifest


def _check_outside(job: LabelingJob) -> None:
    folder = searched_folder(job.source)
    if folder is None or isinstance(folder, StorePath):
        return
    if Path(os.path.realpath(job.folder)).is_relative_to(os.path.realpath(folder)):
        raise ConfigError(
            f"--output {job.folder} is inside of --input {folder}: pictures that it gets, as the "
            "links of --tasks, would be images of the input from then on. Choose a folder outside; "
            "a job that is there continues wherever its folder is moved."
        )


def _compare(folder: Path, settings: dict[str, Any]) -> None:
    saved = _read_settings(folder)
    names = [name for name in settings | saved if name != "manifest"]
    changed = [name for name in names if saved.get(name) != settings.get(name)]
    if changed:
        model = " (--run names another model, or a later checkpoint than that of the start)"
        listed = ", ".join(n + model if n == "weights_sha256" else n for n in changed)
        raise ConfigError(
            f"{folder} holds a job with other settings: {listed}. Choose another --output, or "
            "repeat the command with which the job was started."
        )


def open_manifest(folder: Path) -> Manifest:
    """The list of images of a job that :func:`prepare` has started."""
    settings = _read_settings(folder)
    try:
        return Manifest.from_dict(folder / MANIFEST, settings["manifest"])
    except (KeyError, TypeError) as error:
        raise _damaged(folder / SETTINGS) from error


def _read_settings(folder: Path) -> dict[str, Any]:
    """
    Raises:
        ConfigError: if the file is none that a job has written.
    """
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(settings, dict):
        raise _damaged(path)
    return settings


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is damaged: it does not hold the settings of a job. Bring it back from a copy, or "
        "choose another --output."
    )


def weights_sha256(weights: str) -> str:
    """The SHA-256 of MODEL.WEIGHTS.

    Raises:
        ConfigError: if there is no such file.
    """
    path = Path(weights_file(weights))
    if not path.is_file():
        raise ConfigError(f"MODEL.WEIGHTS: there is no file {weights!r}")
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
