from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from dre_ssod.launch import signals
from dre_ssod.launch.processes import passing_signals_on
from dre_ssod.launch.signals import SIGNALS, SignalRequests, exit_code
from tests.forks import run_forked

NONE = (False, False, False, False)


def test_exit_codes_are_those_of_a_shell() -> None:
    assert (exit_code(signal.SIGTERM), exit_code(signal.SIGINT)) == (143, 130)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    # Under nohup a hangup would be ignored here, too.
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = [signal.getsignal(n) for n in SIGNALS]
    requests = SignalRequests()
    with requests.caught():
        assert requests.pending() == NONE
        signal.raise_signal(number)
        assert requests.pending() == tuple(n == number for n in SIGNALS)
    assert [signal.getsignal(n) for n in SIGNALS] == before
    signal.signal(signal.SIGHUP, hangup)


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        requests = SignalRequests()
        with requests.caught(), passing_signals_on():
            signal.raise_signal(signal.SIGHUP)
            assert requests.pending() == NONE
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_is_left_to_the_system() -> None:
    requests = SignalRequests()
    with requests.caught():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_what_another_process_received_is_agreed_upon() -> None:
    requests = SignalRequests()
    requests.agree(NONE)
    assert (requests.save, requests.stop) == (False, None)
    # One of several processes.
    requests.agree((1, 0, 0, 0))
    assert requests.stop == signal.SIGTERM
    with pytest.raises(SystemExit) as stopped:
        requests.exit_if_stopped()
    assert stopped.value.code == 143


def test_a_request_to_save_is_served_once() -> None:
    requests = SignalRequests()
    with requests.caught():
        signal.raise_signal(signal.SIGUSR1)
        requests.agree(requests.pending())
        assert requests.save
        requests.agree(requests.pending())
        assert not requests.save
        requests.exit_if_stopped()


def test_a_stretch_that_is_saved_ends_at_once() -> None:
    requests = SignalRequests()
    reached = []

    def work() -> None:
        with requests.acted_upon_at_once():
            reached.append("began")
            signal.raise_signal(signal.SIGTERM)
            reached.append("went on")

    with requests.caught():
        with pytest.raises(SystemExit):
            work()
        # Told before it begins.
        with pytest.raises(SystemExit):
            work()
    assert reached == ["began"]


def test_an_error_that_a_signal_caused_ends_with_the_code_of_the_signal() -> None:
    def work(requests: SignalRequests, told: bool) -> None:
        with requests.acted_upon_at_once():
            if told:
                requests._received.add(signal.SIGINT)
            raise RuntimeError("a loading process died")

    with pytest.raises(SystemExit) as stopped:
        work(SignalRequests(), told=True)
    assert stopped.value.code == 130
    with pytest.raises(RuntimeError, match="died"):
        work(SignalRequests(), told=False)


def test_outside_the_main_thread_nothing_is_caught(caplog: pytest.LogCaptureFixture) -> None:
    found = []

    def work() -> None:
        with SignalRequests().caught():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def _wait(patience: float, sent: signal.Signals, waits: float | None) -> None:
    """A step that waits for some seconds, or for a library that comes back to no handler."""
    signals.PATIENCE = patience
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with SignalRequests().caught():
        os.kill(os.getpid(), sent)
        if waits is None:
            ctypes.CDLL(None).poll(None, 0, -1)
        else:
            time.sleep(waits)


@pytest.mark.timeout(50)
@pytest.mark.parametrize(
    ("patience", "sent", "waits", "code"),
    [
        (0.2, signal.SIGTERM, 60.0, 143),
        (0.2, signal.SIGHUP, 60.0, 129),
        (0.2, signal.SIGINT, None, 130),
        # A request to save is none to stop, and a step that ends in time ends the run itself.
        (0.2, signal.SIGUSR1, 1.0, 0),
        (60.0, signal.SIGTERM, 0.0, 0),
    ],
)
def test_a_step_that_never_ends_is_no_reason_to_stay(
    patience: float, sent: signal.Signals, waits: float | None, code: int, tmp_path: Path
) -> None:
    done = run_forked(_wait, patience, sent, waits, folder=tmp_path)
    assert done.returncode == code
    told = f"error: {sent.name} came 0.2 seconds ago" in done.stderr
    assert told == (code != 0)
    assert "Traceback" not in done.stderr


def test_nothing_waits_for_signals_afterwards() -> None:
    threads = threading.active_count()
    with SignalRequests().caught():
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1
