"""The processes that load or check files for a program: they live as long as it does, no longer.

Whoever starts such processes uses this module. By whatever method Python starts them (``fork``,
``spawn``, ``forkserver``) and however the program ends, none is left behind, and none is waited for
in vain. And with how many threads a process computes.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader

from dre_ssod.memory.allocator import keep_freed_memory

# Batches may be larger than the average one.
_RESERVE = 1.25

Loader = TypeVar("Loader", bound=DataLoader[Any])
SHARED_MEMORY = Path("/dev/shm")

logger = logging.getLogger(__name__)


def compute_with(threads: int) -> None:
    """Let PyTorch and OpenCV compute with so many threads in this process.

    OpenCV heeds neither PyTorch's setting nor ``OMP_NUM_THREADS``: by itself it takes all cores,
    in each of the processes that share a machine.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def fitting(asked: int, batch_bytes: float, sharers: int = 1) -> int:
    """The loading processes whose batches fit into shared memory: ``asked``, or fewer.

    PyTorch keeps two batches of each process there, beside those that are being used. One that
    finds no room dies of a bus error, or waits without end; containers often have only 64 MiB.

    Args:
        batch_bytes: of a batch, on average.
        sharers: programs of this run on this machine.
    """
    if not SHARED_MEMORY.is_dir():
        return asked
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize / sharers
    fit = max(0, int((free / (_RESERVE * batch_bytes) - 2) // 2))
    if fit >= asked:
        return asked
    logger.warning(
        "%s has %.0f MiB left for this process, and %d loading processes need about %.0f: using "
        "%d. More of it (docker run --shm-size 8g) makes loading faster; fewer of them is "
        "DATALOADER.NUM_WORKERS.",
        *(SHARED_MEMORY, free / 2**20, asked, _RESERVE * batch_bytes * (2 * asked + 2) / 2**20),
        fit,
    )
    return fit


def image_bytes(short_side: float, max_size: float) -> float:
    """Bytes of an image of 4 to 3 in three channels of 8 bits, resized as Detectron2 does.

    Args:
        short_side: after resizing; 0 for no resizing.
        max_size: longest side after resizing.
    """
    short = min(short_side or max_size, 0.75 * max_size)
    return 3 * short * short / 0.75


def tend(loader: Loader) -> Loader:
    """Let the loading processes of a loader outlive all signals, but not their program.

    Signals to the whole group of processes (Ctrl-C, a scheduler's SIGTERM) are for the program,
    which still needs batches until it has saved its work.
    """
    loader.worker_init_fn = _init_loading
    _kill_at_exit(os.getpid())
    return loader


def share_imports() -> None:
    """Let the fork server, where Python starts processes by one, import this package for all.

    Else each loading process would do so itself, for seconds, and every evaluation has new ones.
    """
    multiprocessing.set_forkserver_preload(["__main__", "dre_ssod"])


def init_checking() -> None:
    """First call of a process of a ``ProcessPoolExecutor``, which ends its processes by SIGTERM."""
    _init((signal.SIGINT, signal.SIGUSR1))


def after_parent(act: Callable[[], object]) -> None:
    """Do something, in a thread, when the process that started this one has ended.

    A pipe tells of it. PyTorch asks the system for the parent's number instead; by the method
    ``forkserver`` that is the fork server, which lives as long as its children.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in processes that multiprocessing has started"

    def wait() -> None:
        parent.join()
        act()

    threading.Thread(target=wait, daemon=True).start()


def _init_loading(worker_id: int) -> None:
    _init((signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP))


def _init(ignored: Iterable[signal.Signals]) -> None:
    cv2.setNumThreads(0)
    keep_freed_memory()
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    after_parent(lambda: os._exit(0))


@functools.cache
def _kill_at_exit(process_id: int) -> None:
    """Have this process kill its loading processes when it exits.

    Before ``multiprocessing`` waits for them, having sent them SIGTERM. Once for each process: one
    that was forked does not inherit it.
    """
    Finalize(None, _kill_loading_processes, exitpriority=0)


def _kill_loading_processes() -> None:
    # PyTorch's handler takes the death of a loading process for a failure.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
