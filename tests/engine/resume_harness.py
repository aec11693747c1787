"""Runs that are killed and resumed, and what they leave behind.

A life is one process of a run (or one group of processes) from its start to its end or death. Lives
are forked from a server that has imported everything, so that a short one takes about a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from dre_ssod.checkpoints import checkpointer as checkpointer_module
from dre_ssod.engine.hooks import checkpoints
from dre_ssod.engine.hooks.writers import TIMES
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.files import open_whole
from tests.engine.steps import completed
from tests.forks import fork_server
from tests.tiny_dataset import TinyDataset, tiny_run

ITERATIONS = 22
OVERRIDES: dict[str, object] = {
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.STEPS": (16,),
    "SOLVER.WARMUP_ITERS": 6,
    "SOLVER.CHECKPOINT_PERIOD": 5,
    "SOLVER.CHECKPOINTS_KEPT": 2,
    "SSOD.BURN_IN_ITERS": 3,
    "SSOD.EVAL_MODEL": "teacher",
    "TEST.EVAL_PERIOD": 9,
}
"""Checkpoints, evaluations and written metrics fall into different iterations."""

MOMENTS = ("step", "write", "written", "named", "evaluation", "evaluated")
"""Where a life can be told to kill itself: before an iteration; halfway through writing its
checkpoint; before and after that checkpoint is named the last; before and after its evaluation."""

_LEFT_OUT = (
    "log.txt",
    "events.",
    "run.json",
    "results.",
    "config",
    "metrics_",
    "metrics.json",
)


class Stop(Exception):
    """What kills a run."""


class StopAt(HookBase):
    """Kills the run at the start of an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            raise Stop


@dataclass(frozen=True)
class Life:
    """What one life does.

    Attributes:
        overrides: config keys, on top of ``OVERRIDES``.
        kill: a moment and the iteration in which the life kills itself, if it gets there.
        processes: how many train together, by gloo.
        send: a signal that the life sends itself at the start of an iteration.
        copy: an iteration, and where the folder is copied before it, as a kill would leave it.
    """

    overrides: Mapping[str, object] = field(default_factory=dict)
    kill: tuple[str, int] | None = None
    processes: int = 1
    send: tuple[signal.Signals, int] | None = None
    copy: tuple[int, Path] | None = None


def run_config(data: TinyDataset, folder: Path, overrides: Mapping[str, object]) -> CfgNode:
    return completed(tiny_run(data, folder, **{**OVERRIDES, **overrides}))


def live(
    data: TinyDataset, folder: Path, life: Life, kill_after: float | None = None
) -> list[int | None]:
    """Let a run live once: start or resume it.

    Args:
        kill_after: seconds from now at which the life is killed, if it is still there.

    Returns:
        Exit codes of its processes; minus the number of the signal where one killed it.
    """
    context = fork_server()
    meeting = f"file://{folder.parent}/{uuid.uuid4().hex}"
    started = [
        context.Process(target=_live, args=(data, folder, life, rank, meeting))
        for rank in range(life.processes)
    ]
    for process in started:
        process.start()
    if kill_after is not None:
        time.sleep(kill_after)
        # Of several processes, one dies.
        started[-1].kill()
    _join(started)
    return [process.exitcode for process in started]


def _join(processes: list[BaseProcess]) -> None:
    """Wait; once a process has died of a signal, the others have nobody to talk to."""
    deadline = time.monotonic() + 500.0
    while any(process.is_alive() for process in processes):
        dead = any(process.exitcode not in (None, 0) for process in processes)
        if dead:
            deadline = min(deadline, time.monotonic() + 5.0)
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.01)


def _live(data: TinyDataset, folder: Path, life: Life, rank: int, meeting: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"log.txt.life{rank}").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    # Under nohup it would be ignored here, too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if life.processes > 1:
        dist.init_process_group("gloo", init_method=meeting, world_size=life.processes, rank=rank)
        comm.create_local_process_group(life.processes)
    # One labeled and one unlabeled image a process.
    images = {"SOLVER.IMS_PER_BATCH": 2 * life.processes}
    cfg = run_config(data, folder, {**images, **life.overrides})
    seed_all_rng(cfg.SEED)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=True)
    if rank == life.processes - 1 and life.send is not None:
        trainer.register_hooks([_BeforeStep(life.send[1], lambda: _die(life.send[0]))])
    if rank == 0 and life.copy is not None:
        iteration, copy = life.copy
        trainer.register_hooks([_BeforeStep(iteration, lambda: _copy(folder, copy))])
    with contextlib.ExitStack() as stack:
        if rank == 0 and life.kill is not None:
            stack.enter_context(killing_itself(trainer, *life.kill))
        trainer.train()


class _BeforeStep(HookBase):
    def __init__(self, iteration: int, act: Callable[[], None]) -> None:
        self._iteration = iteration
        self._act = act

    def before_step(self) -> None:
        if self.trainer.iter == self._iteration:
            self._act()


def _copy(folder: Path, copy: Path) -> None:
    shutil.copytree(folder, copy)


def _die(number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def killing_itself(trainer: SSODTrainer, moment: str, iteration: int) -> Iterator[None]:
    """Have a trainer kill its process at a moment of an iteration."""
    assert moment in MOMENTS

    def before(act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*args: Any, **kwargs: Any) -> Any:
            if trainer.iter == iteration:
                _die()
            return act(*args, **kwargs)

        return acting

    @contextlib.contextmanager
    def half_written(path: Path) -> Iterator[IO[bytes]]:
        with open_whole(path) as file:
            yield file
            if path.suffix == ".pth" and trainer.iter == iteration:
                file.truncate(file.tell() // 2)
                file.flush()
                _die()

    checkpointer = trainer.checkpointer
    if moment == "step":
        trainer.register_hooks([_BeforeStep(iteration, _die)])
    elif moment == "write":
        checkpointer_module.open_whole = half_written
    elif moment == "written":
        checkpointer.tag_last_checkpoint = before(checkpointer.tag_last_checkpoint)
    elif moment == "named":
        checkpoints.clear_old = before(checkpoints.clear_old)
        checkpoints.add_name = before(checkpoints.add_name)
    elif moment == "evaluation":
        trainer._checkpoints._evaluation._func = before(trainer.evaluate)
    else:
        best = trainer._checkpoints._best
        best.after_step = before(best.after_step)
    yield


def end_state(folder: Path) -> dict[str, str]:
    """Everything that a run leaves behind but for times, in a form that can be compared."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith(_LEFT_OUT):
            continue
        if path.suffix == ".pth":
            content = torch.load(path, weights_only=True)
            if isinstance(content, dict):
                _without_files(content)
            found |= flattened(content, name)
        else:
            # The folder's own name stands in some files.
            found[name] = hashlib.sha256(
                path.read_bytes().replace(str(folder).encode(), b"")
            ).hexdigest()
    for number, line in enumerate((folder / "metrics.json").read_text().splitlines()):
        values = {k: v for k, v in json.loads(line).items() if k not in TIMES}
        found |= flattened(values, f"metrics.json/{number}")
    return found


def end_of(folder: Path, root: str) -> dict[str, str]:
    """What a run leaves behind, without the root of its data."""
    found = {name: text.replace(root, "") for name, text in end_state(folder).items()}
    # Detections lie in folders with the names of the sets.
    detections = sorted(name for name in found if name.startswith("inference/"))
    return found | {f"detections {n}": found.pop(name) for n, name in enumerate(detections)}


def _without_files(content: dict[str, Any]) -> None:
    """Sizes of files that hold times differ."""
    writer = content["trainer"]["hooks"].get("ResumingWriter", {})
    for file in writer.get("files", []):
        file.pop("bytes")


def flattened(value: Any, name: str) -> dict[str, str]:
    """Nested containers as one dict of texts; tensors as a hash of their bytes."""
    if isinstance(value, Mapping):
        found = {f"{name}/": f"{len(value)} entries"}
        for key, item in value.items():
            found |= flattened(item, f"{name}/{key}")
        return found
    if isinstance(value, list | tuple):
        return flattened(dict(enumerate(value)), name)
    if isinstance(value, torch.Tensor):
        data = value.detach().contiguous().numpy()
        return {name: f"{data.dtype} {data.shape} {hashlib.sha256(data.tobytes()).hexdigest()}"}
    return {name: repr(value)}


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Names of what is not bit by bit the same; empty if all is."""
    return sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )


def random_kills(
    data: TinyDataset,
    folder: Path,
    rng: np.random.Generator,
    kills: int,
    duration: float,
    choose: Callable[[np.random.Generator], Life],
) -> int:
    """Kill a run at random moments, then let it finish.

    Args:
        kills: how often at most.
        duration: seconds that an uninterrupted life takes.
        choose: how each life goes on.

    Returns:
        How often it was killed before it could finish.
    """
    killed = 0
    for _ in range(kills):
        codes = live(data, folder, choose(rng), kill_after=float(rng.uniform(0.1, duration)))
        killed += -signal.SIGKILL in codes
        assert set(codes) <= {0, 1, -signal.SIGKILL}, codes
    codes = live(data, folder, choose(rng))
    assert set(codes) == {0}, (folder / "log.txt.life0").read_text()[-3000:]
    return killed
