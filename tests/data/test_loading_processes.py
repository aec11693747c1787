"""Loading processes and the signals that reach them; in a program of its own."""

from __future__ import annotations

import subprocess
import sys

LEFT_OPEN = """
import subprocess
from dre_ssod.data.loader import BatchPlan, build_paired_loader

def mapper(record, rng):
    return record["file_name"]

pool = [{"file_name": "a"}]
loader = build_paired_loader(pool, pool, mapper, mapper, BatchPlan(1, 1), seed=1, num_workers=1)
batches = iter(loader)
next(batches)
for _ in range(2):
    subprocess.run(["kill", "-TERM", str(batches._workers[0].pid)], check=True)
    for _ in range(10):
        next(batches)
print("served")
"""


def test_a_worker_outlives_a_signal_to_all_but_not_its_program() -> None:
    # It would be waited for at the exit for ever, since PyTorch ends it by the same signal.
    command = [sys.executable, "-W", "ignore", "-c", LEFT_OPEN]
    assert subprocess.check_output(command, text=True, timeout=120) == "served\n"
