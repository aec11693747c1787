"""``run.json``: what a run folder needs to explain how its files came about.

The file holds a list, ``runs``, with one entry for each start of a program in the folder, be it a
training, its resumption or an evaluation. Entries are added, never changed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from dre_ssod.config.reading import read_config
from dre_ssod.data.sources.uri import datasets_root
from dre_ssod.files import set_aside, write_text
from dre_ssod.launch.processes import is_restart, launched_by
from dre_ssod.locks import now, taking_turns
from dre_ssod.runs.sets import DatasetRow

GIT_TIMEOUT = 10.0
"""Seconds after which git is given up, as on a network drive that hangs."""

TRAINING_LOCK = ".training.lock"
"""The file in OUTPUT_DIR that the training has locked which writes there."""
_ENTRIES_LOCK = ".entries.lock"

_PACKAGES = ("dre_ssod", "torch", "torchvision", "detectron2", "timm", "numpy", "cv2")

logger = logging.getLogger(__name__)


def record_start(
    cfg: CfgNode,
    kind: str,
    datasets: Sequence[DatasetRow],
    *,
    config_file: str,
    seed: int,
    first_iteration: int | None = None,
    precision: str = "float32",
) -> None:
    """Add an entry to ``run.json`` in OUTPUT_DIR; all processes call it, the main one writes.

    Args:
        kind: "training" or "evaluation".
        datasets: the sets of the run.
        config_file: as on the command line, "" for none.
        seed: that the run uses.
        first_iteration: that is trained next; above 0 where a run is resumed.
        precision: the number format that the run computes in.
    """
    launch = _launch()
    if not comm.is_main_process():
        return
    entry = {
        "kind": kind,
        "started": now(),
        "command": shlex.join(sys.argv),
        "launch": launch,
        "working_directory": os.getcwd(),
        "datasets_root": str(datasets_root()),
        "config_file": config_file or None,
        "seed": seed,
        "first_iteration": first_iteration,
        "weights": cfg.MODEL.WEIGHTS or None,
        "world_size": comm.get_world_size(),
        "precision": precision,
        "machine": _machine(cfg.MODEL.DEVICE),
        "versions": package_versions(),
        "git": git_state(Path(__file__).resolve().parents[2]),
        "datasets": [row.as_dict() for row in datasets],
    }
    folder = Path(cfg.OUTPUT_DIR)
    with one_at_a_time(folder):
        append_entry(folder / "run.json", "runs", entry)


def is_own_restart(args: argparse.Namespace) -> bool:
    """Whether torchrun or Slurm started a training again that began in OUTPUT_DIR, the same one.

    What they start again may never have begun: OUTPUT_DIR may hold another run, which is refused.

    Args:
        args: of ``train_net.py``; all processes of the run call this.
    """
    if args.eval_only or not any(comm.all_gather(is_restart())):
        return False
    launch, is_own = _launch(), False
    if comm.is_main_process():
        folder = Path(read_config(args.config_file, args.opts).OUTPUT_DIR)
        entries = _read_entries(folder / "run.json", "runs") or []
        trainings = [entry for entry in entries if entry.get("kind") == "training"]
        last = trainings[-1] if trainings else {}
        is_same = last.get("command") == shlex.join(sys.argv)
        is_own = is_same and not {*launch}.isdisjoint(last.get("launch", ()))
    return bool(comm.all_gather(is_own)[0])


def _launch() -> list[str]:
    """What started the processes of this run: on every machine another agent of torchrun."""
    return sorted({name for names in comm.all_gather(launched_by()) for name in names})


def one_at_a_time(folder: Path) -> AbstractContextManager[None]:
    """Others wait that would change what a training and evaluations share in OUTPUT_DIR."""
    return taking_turns(folder / _ENTRIES_LOCK)


def append_entry(
    path: Path, key: str, entry: dict[str, Any], **constants: Any
) -> list[dict[str, Any]]:
    """Add an entry to the list ``key`` of a JSON file; returns the list.

    To be called :func:`one_at_a_time`. A file that cannot be read is kept under another name, and
    a new one is begun.

    Args:
        constants: further content of the file.
    """
    entries = _read_entries(path, key)
    if entries is None:
        entries, other = [], set_aside(path)
        logger.warning(
            "%s has no readable list %r: kept as %s, a new one begins.", path, key, other
        )
    entries.append(entry)
    write_text(path, json.dumps({**constants, key: entries}, indent=1) + "\n")
    return entries


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit of a checkout, and whether its files differ from it; None if ``root`` is no checkout.

    Files that git does not track count as a difference where they may be part of the program.
    """
    found = _git(root, "rev-parse", "--show-toplevel", "HEAD")
    if found is None or len(found.splitlines()) != 2:
        return None
    top, commit = found.splitlines()
    if Path(top).resolve() != root.resolve():
        return None
    status = _git(root, "status", "--porcelain", "--", "*.py", "*.yaml")
    return {"commit": commit, "dirty": None if status is None else bool(status.strip())}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _read_entries(path: Path, key: str) -> list[dict[str, Any]] | None:
    """The list ``key`` of a JSON file; None if there is a file without one that can be read."""
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return entries if isinstance(entries, list) else None


def _machine(device: str) -> dict[str, Any]:
    machine: dict[str, Any] = {
        "host": platform.node(),
        "platform": platform.platform(),
        "device": device,
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def package_versions() -> dict[str, str | None]:
    """Versions of this package and of those that decide what a run gives, by name."""
    versions = {name: str(importlib.import_module(name).__version__) for name in _PACKAGES}
    return {"python": platform.python_version(), **versions, "cuda": torch.version.cuda}
