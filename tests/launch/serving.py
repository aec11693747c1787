"""A program whose loading process gets all signals that a group of processes can get."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import numpy as np

from dre_ssod.data.loader import BatchPlan, build_paired_loader
from dre_ssod.launch.signals import SIGNALS
from dre_ssod.workers import share_imports
from tests.launch.imported import is_imported


def name_only(record: dict[str, Any], rng: np.random.Generator) -> str:
    return str(record["file_name"])


def run(words: list[str]) -> int:
    """Load on after each signal, then exit with the loader left open."""
    share_imports()
    if multiprocessing.get_start_method() == "forkserver":
        with multiprocessing.Pool(1) as processes:
            assert processes.apply(is_imported, ("dre_ssod",)), "each process imports it"
    pool = [{"file_name": "a"}]
    plan = BatchPlan(1, 1)
    batches = iter(
        build_paired_loader(pool, pool, name_only, name_only, plan, seed=1, num_workers=1)
    )
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    # By the last one Slurm asks for room.
    for number in (*SIGNALS, signal.SIGUSR2):
        os.kill(worker.pid, number)
        # More than are loaded in advance.
        for _ in range(10):
            next(batches)
    print("served")
    return 0
