from __future__ import annotations

import argparse
import logging
import socket

import pytest
import torch

from dre_ssod.errors import ConfigError, SourceError, UserError
from dre_ssod.launch.processes import TORCHRUN_VARIABLES
from dre_ssod.launch.program import check_arguments, run_program


def failing(error: BaseException) -> int:
    def program() -> None:
        raise error

    return run_program(program)


def test_success_is_zero_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(lambda: None) == 0
    assert run_program(lambda number: number, 1) == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [UserError, ConfigError, SourceError])
def test_a_user_error_is_a_paragraph_of_whole_words(
    kind: type[UserError], capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/a/" + 30 * "very_long-" + "path"
    message = f"{path}: the file is damaged; " + 30 * "repair it or " + "remove it"
    assert failing(kind(message)) == 2
    printed, complained = capsys.readouterr()
    assert printed == ""
    assert complained.replace("\n", " ") == f"error: {message} "
    assert path in complained.splitlines()[1]
    assert all(len(line) <= 100 for line in complained.splitlines() if path not in line)


def test_a_file_error_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(PermissionError(13, "Permission denied", "/etc/x")) == 2
    assert "/etc/x: Permission denied" in capsys.readouterr().err


def test_memory_says_which_keys_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(torch.OutOfMemoryError("Tried to allocate 2 GiB.\nDetails")) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "Tried to allocate 2 GiB. Lower INPUT.MIN_SIZE_TEST" in message
    # A training step says itself what to change.
    assert failing(torch.OutOfMemoryError("Out. Set SOLVER.ACCUMULATION_STEPS 4.")) == 2
    assert capsys.readouterr().err.endswith("Set SOLVER.ACCUMULATION_STEPS 4.\n")


@pytest.mark.parametrize("error", [RuntimeError("bug"), ValueError("bug"), KeyError("bug")])
def test_mistakes_of_the_program_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="bug"):
        failing(error)


def test_the_training_loop_logs_user_errors_without_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("detectron2.engine.train_loop")
    logger.parent.propagate = True  # type: ignore[union-attr]

    def train(error: Exception) -> None:
        try:
            raise error
        except Exception:
            logger.exception("Exception during training:")
            raise

    with caplog.at_level(logging.ERROR, logger.name):
        assert run_program(lambda: train(SourceError("bad image"))) == 2
        with pytest.raises(RuntimeError):
            run_program(lambda: train(RuntimeError("bug")))
    user, bug = caplog.records[-2:]
    assert (user.getMessage(), user.exc_info) == ("Training stopped: bad image", None)
    assert bug.exc_info is not None


def arguments(**changes: object) -> argparse.Namespace:
    defaults = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return argparse.Namespace(**{**defaults, **changes})


def check_arguments_of(args: argparse.Namespace, device: str = "cuda") -> None:
    check_arguments(args, device)


def test_processes_that_can_be_started_are_accepted() -> None:
    check_arguments_of(arguments())
    # One process needs no address.
    check_arguments_of(arguments(dist_url="nonsense"))
    check_arguments_of(arguments(num_gpus=2), "cpu")
    check_arguments_of(arguments(num_gpus=2, dist_url="file:///tmp/x"), "cpu")
    remote = {"num_machines": 2, "machine_rank": 1}
    check_arguments_of(arguments(dist_url="tcp://gpu1.cluster:29500", **remote))
    check_arguments_of(arguments(dist_url="tcp://[fe80::1]:29500", **remote))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_gpus": 0}, "--num-gpus is 0; it must be at least 1"),
        ({"num_machines": -1}, "--num-machines is -1; it must be at least 1"),
        ({"machine_rank": 2, "num_machines": 2}, "--machine-rank is 2; .* must be 0 to 1"),
        ({"num_machines": 2}, "--dist-url is 'auto'; auto works on one machine only"),
        ({"num_machines": 2, "dist_url": "tcp://host"}, "--dist-url is 'tcp://host'; it must"),
        ({"num_machines": 2, "dist_url": "tcp://host:70000"}, "a free port of it from 1 to 65535"),
        ({"num_machines": 2, "dist_url": "host:29500"}, "tcp://HOST:PORT"),
    ],
)
def test_processes_that_cannot_be_started_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_arguments_of(arguments(**changes))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"--num-gpus is 2, but this machine has 1 GPU\(s\)"):
        check_arguments_of(arguments(num_gpus=2))
    # They share the CPU, however many GPUs there are.
    check_arguments_of(arguments(num_gpus=2), "cpu")


def test_several_processes_on_one_named_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_arguments_of(arguments(), "cuda:1")
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE is 'cuda:1', but there are 2 processes"):
        check_arguments_of(arguments(num_gpus=2), "cuda:1")
    for name in TORCHRUN_VARIABLES:
        monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE is 'cuda:1', but there are 2 processes"):
        check_arguments_of(arguments(), "cuda:1")
    check_arguments_of(arguments(), "cuda")


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = arguments(num_machines=2, dist_url=f"tcp://127.0.0.1:{port}")
        with pytest.raises(ConfigError, match=f"port {port} is in use"):
            check_arguments_of(taken)
        # It is the first machine that listens.
        taken.machine_rank = 1
        check_arguments_of(taken)


def test_names_out_of_files_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(UserError("the class 'a\x1b[31mb\x07' is unknown")) == 2
    assert "'a\\x1b[31mb\\x07'" in capsys.readouterr().err
