"""Jobs of Slurm, by submitit: they save when Slurm asks for their place, and continue in a new one.

Slurm sends SIGUSR2 before the time limit, and so does who wants the place. The run in the job then
saves and ends as by SIGTERM, and submitit has the job requeued. SIGTERM alone, which ``scancel``
sends, ends it for good.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from dre_ssod.errors import UserError
from dre_ssod.launch.signals import exit_code

ASKS = signal.SIGUSR2
"""What submitit has Slurm send when a job is to make room."""
DEFAULTS = {
    "timeout_min": 240,
    "slurm_signal_delay_s": 120,
    "slurm_additional_parameters": {"requeue": True},
}
"""Of submitit's executor. Its own time limit, 5 minutes, is one for functions."""
MOST_TIMEOUTS = 10_000
WAIT_SECONDS = 120.0
"""Time in which the first process of a job has it requeued, which ends the others."""
_CHECKOUT = Path(__file__).resolve().parents[2]


class Requeued:
    """A function for submitit to run in a job, which is requeued when Slurm asks for its place."""

    def __init__(self, act: Callable[..., object], *arguments: Any) -> None:
        """
        Args:
            act: when called again with the arguments, it continues what it was ended in. On SIGTERM
                it may save and then end by SystemExit; without a handler for it, it is ended at
                once.
        """
        self._act, self._arguments = act, arguments

    def __call__(self) -> None:
        """Run it in each process of the job, which find each other as those of torchrun do."""
        import submitit
        from submitit.helpers import TorchDistributedEnvironment

        if submitit.JobEnvironment().num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        asked: list[int] = []
        requeue, unhandled = signal.getsignal(ASKS), signal.getsignal(signal.SIGTERM)

        def stop(number: int, frame: FrameType | None) -> None:
            asked.append(number)
            if signal.getsignal(signal.SIGTERM) is unhandled:
                raise SystemExit(exit_code(signal.SIGTERM))
            signal.raise_signal(signal.SIGTERM)

        signal.signal(ASKS, stop)
        try:
            self._act(*self._arguments)
        except SystemExit:
            if not asked:
                raise
            # Who asks again asks for what is happening.
            signal.signal(ASKS, signal.SIG_IGN)
            assert callable(requeue), "submitit handles the signal"
            # Ends the first process.
            requeue(ASKS, None)
            time.sleep(WAIT_SECONDS)
            raise
        finally:
            signal.signal(ASKS, requeue)

    def checkpoint(self) -> Any:
        """What the requeued job runs: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_file(program: Path, words: list[str]) -> None:
    """Run a program in this process; in a job that was requeued, ``train_net.py`` finds out itself.

    Args:
        program: a Python file with a function ``run(words)`` that returns an exit code.

    Raises:
        RuntimeError: if its exit code is not 0.
    """
    sys.argv = [program.name, *words]
    code = runpy.run_path(str(program))["run"](words)
    if code:
        raise RuntimeError(f"{program.name} ended with {code}")


def submit(
    function: Requeued,
    folder: Path,
    options: Mapping[str, Any],
    *,
    count: int = 1,
    cluster: str = "slurm",
) -> list[Any]:
    """Give jobs that run the same to Slurm; several become an array.

    They run in the current folder, by the Python and the checkout of this process.

    Args:
        folder: for submitit's files and what the jobs print, at one path on all machines.
        options: of submitit's executor, such as ``slurm_partition``, over ``DEFAULTS``.
        cluster: as submitit names it.

    Returns:
        Jobs of submitit.

    Raises:
        UserError: if submitit is not installed, there is no Slurm, or it refuses the jobs.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "Slurm needs the package submitit: pip install 'dre_ssod[slurm]'"
        ) from error
    said = io.StringIO()
    path = f"export PYTHONPATH={shlex.quote(str(_CHECKOUT))}${{PYTHONPATH:+:$PYTHONPATH}}"
    try:
        # What a command of Slurm complains of, submitit both prints and raises.
        with contextlib.redirect_stderr(said):
            executor = submitit.AutoExecutor(
                folder, cluster=cluster, slurm_max_num_timeout=MOST_TIMEOUTS
            )
            executor.update_parameters(**{**DEFAULTS, f"{cluster}_setup": [path], **options})
            with executor.batch():
                jobs = [executor.submit(function) for _ in range(count)]
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"Slurm does not take the job of {folder}: {error}") from error
    sys.stderr.write(said.getvalue())
    return jobs
