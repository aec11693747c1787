"""A Slurm of one machine: its daemons on loopback, in a folder, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/linear
SchedulerType=sched/builtin
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 Port={node} CPUs={cores} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing() -> str:
    """Why there can be no cluster; "" if there can."""
    absent = [name for name in NEEDED if shutil.which(name, path=_path()) is None]
    if absent:
        return f"not installed (packages slurm-wlm and munge): {', '.join(absent)}"
    return "" if os.getuid() == 0 else "the daemons of this test are started as root"


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it, and end it.

    Yields:
        The environment of commands that use it.
    """
    folder.mkdir(mode=0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    names = {"host": platform.node().partition(".")[0], "folder": folder, "cores": os.cpu_count()}
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(**names, controller=_free_port(), node=_free_port()))
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(config)}
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket"],
        ["slurmctld", "-D", "-i", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    ]
    files = ("key", "log", "pid", "seed")
    commands[0] += [f"--{name}-file={folder}/munge.{name}" for name in files]
    with contextlib.ExitStack() as until:
        for command in commands:
            log = until.enter_context((folder / f"{command[0]}.out").open("wb"))
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            until.callback(_end, daemon)
            time.sleep(1)
        _wait_for(environment, ["sinfo", "--noheader", "-o", "%T"], "idle")
        until.callback(_end_jobs, environment)
        yield environment


def _end_jobs(environment: dict[str, str]) -> None:
    """Nothing of a job outlives the daemons."""
    subprocess.run(["scancel", "--user=root"], env=environment, check=True)
    _wait_for(environment, ["squeue", "--noheader"], "")


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _wait_for(environment: dict[str, str], command: list[str], answer: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout.strip() == answer:
            return
        assert time.monotonic() < deadline, said.stdout + said.stderr
        time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
