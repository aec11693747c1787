"""Output that nobody takes, a full disk, a reader that left; names that would steer a terminal."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data.build import print_instances_class_histogram

from dre_ssod.errors import FileError
from dre_ssod.files import naming_failures
from dre_ssod.launch.program import run_program
from tests import ROOT

FULL = Path("/dev/full")
"""Every write fails as on a full disk."""


@pytest.fixture
def full_log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("dre_ssod.test_streams")
    handler = logging.StreamHandler(FULL.open("w", buffering=1, encoding="utf-8"))
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_a_full_disk_leaves_one_paragraph_though_the_log_is_on_it(
    full_log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        full_log.error("lost")
        with naming_failures(Path("metrics.json")), FULL.open("w") as file:
            file.write("line")

    assert run_program(main) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message.startswith("error: metrics.json cannot be written: No space left on device")
    assert "Traceback" not in message
    # Nothing is tried again at the interpreter's exit.
    assert full_log.handlers[0].stream.closed  # type: ignore[attr-defined]


def test_a_thread_that_writes_to_a_full_disk_says_nothing_and_others_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(error: Exception) -> None:
        raise error

    def main(error: Exception) -> None:
        thread = threading.Thread(target=fail, args=(error,))
        thread.start()
        thread.join()

    heard: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: heard.append(args.exc_value))
    bug = KeyError("a bug")
    run_program(main, OSError(errno.ENOSPC, "full"))
    run_program(main, bug)
    assert heard == [bug]


def test_what_another_file_could_not_do_keeps_its_name() -> None:
    with pytest.raises(FileNotFoundError, match="gone"), naming_failures(Path("metrics.json")):
        Path("gone").read_text()
    with (
        pytest.raises(FileError, match=r"metrics\.json cannot"),
        naming_failures(Path("metrics.json")),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Each "how" is a fork, with a reader that leaves after the first line and waits for its end. Then
# consoles of several encodings are spoken to.
PROGRAM = """
import logging, os, sys
from dre_ssod.launch.program import run_program
from dre_ssod.launch.streams import keep_in_utf8
def print_much(how):
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)
    for number in range(20_000):
        logging.info("line %d", number) if how == "log" else print("line", number)
for how in ("print", "log"):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.dup2(writing, 1)
        os.close(reading)
        os.close(writing)
        # Through the interpreter's own end, as every program.
        sys.exit(run_program(print_much, how))
    os.close(writing)
    with open(reading) as pipe:
        first = pipe.readline().strip()
    print(how, first, os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
def speak(file):
    logger = logging.getLogger("dre_ssod")
    logger.setLevel(logging.INFO)
    # As Detectron2 opens them.
    logger.handlers = [logging.StreamHandler(stream) for stream in (sys.stdout, open(file, "a"))]
    keep_in_utf8(logger)
    logger.info("été 狗 %s", b"\\xff".decode("utf-8", "surrogateescape"))
    print("printed 狗")
code = run_program(speak, "first.txt")
for encoding in ("ascii", "utf-8"):
    sys.stdout.reconfigure(encoding=encoding, errors="strict")
    code += run_program(speak, f"{encoding}.txt")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """The folder of the program, which ended well without complaint, and the lines it printed on a
    console of a locale that knows ASCII alone."""
    folder: Path = tmp_path_factory.mktemp("spoken")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    surroundings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "program.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "", **surroundings},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return folder, done.stdout.splitlines(keepends=True)


def test_a_reader_that_leaves_is_no_error(spoken: tuple[Path, list[bytes]]) -> None:
    """As in ``... | head -1``: what only logs continues, what has nobody to tell ends."""
    _, lines = spoken
    assert lines[:2] == [b"print line 0 141\n", b"log INFO:root:line 0 0\n"]


def test_no_line_is_lost_on_a_console_that_cannot_show_it(spoken: tuple[Path, list[bytes]]) -> None:
    """One of a locale that knows ASCII alone, one of PYTHONIOENCODING=ascii, and one that can."""
    folder, lines = spoken
    text = "été 狗 \\udcff\nprinted 狗\n"
    shown = text.encode("ascii", "backslashreplace")
    assert b"".join(lines[2:]) == 2 * shown + text.encode()
    for name in ("first", "ascii", "utf-8"):
        assert (folder / f"{name}.txt").read_bytes() == "été 狗 \\udcff\n".encode()


@pytest.mark.parametrize("logger_name", ["dre_ssod.test_streams", "detectron2"])
def test_names_in_the_log_steer_no_terminal(
    logger_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in messages of our own nor in Detectron2's tables, which have colors."""
    # As on a terminal, which termcolor asks about once in a process.
    monkeypatch.setattr("detectron2.data.build.colored", lambda text, _: f"\x1b[36m{text}\x1b[0m")
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logger = logging.getLogger(logger_name)
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)

    def main() -> None:
        if logger_name == "detectron2":
            records = [{"annotations": [{"category_id": 0}, {"category_id": 1}]}]
            print_instances_class_histogram(records, ["\x1b[2Jcat", "dog\u202e"])
        else:
            logger.info("Skipped %s:\n\t%s", "\x1b[2Jcat.jpg", "dog\u202e é 狗")

    try:
        assert run_program(main) == 0
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    text = log.getvalue()
    assert "\\x1b[2Jcat" in text
    assert "dog\\u202e" in text
    assert "\x1b[2J" not in text
    if logger_name == "detectron2":
        assert "\x1b[36m" in text
    else:
        assert text.endswith(":\n\tdog\\u202e é 狗\n")
    assert logging.getLogRecordFactory() is logging.LogRecord
