"""One mistake of a user, and what a program says to it."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_dataset import loggers_kept

CONFIG = "config.yaml"


@dataclass(frozen=True)
class BadInput:
    """One mistake.

    Attributes:
        group: heading of the table it stands in.
        mistake: in words.
        words: the command line; a program that trains gets ``--config-file`` and ``OUTPUT_DIR``.
        says: parts of the message: the name of the thing, its value, what to do.
        program: a script below the project's folder.
        config: the file for ``--config-file``; None gives the program ``words`` alone.
        theirs: a pattern of what the message quotes of other packages, whose words may change.
    """

    group: str
    mistake: str
    words: str
    says: tuple[str, ...]
    program: str = "train_net.py"
    config: str | None = CONFIG
    theirs: str = ""

    def command(self) -> list[str]:
        """All words after the program's name."""
        words = shlex.split(self.words)
        if self.config is None:
            return words
        options = [word for word in words if word.startswith("-")]
        first = next((n for n, word in enumerate(words) if word[:1].isupper()), len(words))
        head, tail = (words[:first], words[first:]) if options else ([], words)
        output = [] if "OUTPUT_DIR" in words else ["OUTPUT_DIR", f"runs/{slug(self.mistake)}"]
        return ["--config-file", self.config, *head, *output, *tail]

    def own_words(self, message: str) -> str:
        """A message without what it quotes of other packages."""
        return re.sub(self.theirs, "[...]", message, count=1) if self.theirs else message


@dataclass(frozen=True)
class Outcome:
    """How a program ended: exit code, all that it printed, and its message."""

    code: int
    output: str
    message: str


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def run_in(root: Path, case: BadInput) -> Outcome:
    """Run a program of this process in a folder and catch all that it prints."""
    printed, complained = io.StringIO(), io.StringIO()
    with (
        _at(root),
        loggers_kept(),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(complained),
    ):
        try:
            code = _program(case.program)(case.command())
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    shown = complained.getvalue().replace(str(root), "/data")
    message = " ".join(shown[shown.rfind("error: ") :].split()).removeprefix("error: ")
    return Outcome(code, printed.getvalue() + shown, message)


def _program(path: str) -> Callable[[Sequence[str]], int]:
    """What a script runs with a command line, and whose result is the exit code."""
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    run: Callable[[Sequence[str]], int] = module.run
    return run


@contextlib.contextmanager
def _at(folder: Path) -> Iterator[None]:
    before, datasets = Path.cwd(), os.environ.get("DETECTRON2_DATASETS")
    os.chdir(folder)
    os.environ["DETECTRON2_DATASETS"] = "datasets"
    try:
        yield
    finally:
        os.chdir(before)
        del os.environ["DETECTRON2_DATASETS"]
        if datasets is not None:
            os.environ["DETECTRON2_DATASETS"] = datasets
