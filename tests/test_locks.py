"""A folder has one writer, until that process says so or is gone."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dre_ssod.errors import FileError, FolderInUseError
from dre_ssod.locks import Claims, holding, taking_turns


def _hold(path: Path, told: Connection) -> None:
    """A process that holds a lock, and forks a child that outlives it."""
    with holding(path):
        child = os.fork()
        if child == 0:
            signal.pause()
        told.send(child)
        signal.pause()


def test_the_lock_ends_with_its_process_though_a_child_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    told, telling = multiprocessing.Pipe(duplex=False)
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(path, telling))
    holder.start()
    child = told.recv()
    try:
        expected = rf"{tmp_path} is in use: process {holder.pid} of the machine '.+', started 20.+T"
        with pytest.raises(FolderInUseError, match=expected), holding(path):
            pass
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        # Killed on this machine: there is nothing to say.
        with holding(path) as note:
            assert note is None
    finally:
        os.kill(child, signal.SIGKILL)


def test_one_process_holds_a_folder_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holding(path):
        with pytest.raises(FolderInUseError, match=rf"process {os.getpid()} "), holding(path):
            pass
        # The refusal has not released it.
        assert _free_for_others(path) is False
    assert path.read_text() == ""
    assert _free_for_others(path)


def _free_for_others(path: Path) -> bool:
    child = os.fork()
    if child == 0:
        try:
            # What a fork inherits is not its own.
            from dre_ssod import locks

            locks._held.clear()
            with holding(path):
                os._exit(0)
        except FolderInUseError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_holder_on_another_machine_that_never_signed_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text('{"host": "node7", "process": 12, "since": "yesterday"}')
    with holding(path) as note:
        assert note is not None
        assert "process 12 of the machine 'node7', started yesterday, has been writing" in note


@pytest.mark.parametrize("content", ["", "[]", "rubbish", "[" * 100_000, "\0"])
def test_rubbish_in_the_file_is_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    with holding(tmp_path / "lock") as note:
        assert note is None


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", refuse)
    with holding(tmp_path / "lock") as note:
        assert note is not None
        assert "has no locks (No locks available)" in note
    with taking_turns(tmp_path / "turns"):
        pass
    with Claims(tmp_path / "claims") as claims:
        assert claims.note is None
        assert claims.take(3)
        assert "has no locks (No locks available): several processes may" in (claims.note or "")
        claims.give_back(3)


def test_a_lock_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match="gone/lock cannot be written"),
        holding(tmp_path / "gone" / "lock"),
    ):
        pass


def _add(path: Path, times: int) -> None:
    for _ in range(times):
        with taking_turns(path.with_name("turns")):
            path.write_text(str(int(path.read_text()) + 1))


def test_processes_that_take_turns_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_add, args=(path, 200)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert path.read_text() == "600"


def _first_free(path: Path) -> int:
    """Which of three pieces another process gets."""
    child = os.fork()
    if child == 0:
        with Claims(path) as claims:
            os._exit(next((number for number in range(3) if claims.take(number)), 3))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_piece_of_work_is_one_processs_until_given_back(tmp_path: Path) -> None:
    path = tmp_path / "claims"
    with Claims(path) as claims:
        assert claims.take(0)
        assert claims.take(1)
        assert _first_free(path) == 2
        claims.give_back(0)
        assert _first_free(path) == 0
        assert claims.take(0)
        assert claims.take(2)
        assert _first_free(path) == 3
    assert _first_free(path) == 0
