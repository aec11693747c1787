"""What users get wrong never ends in silence or in a traceback. See tests/bad_inputs.py."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train_net
from tests import ROOT
from tests.bad_config_inputs import ARGUMENTS
from tests.bad_input import CONFIG, BadInput, Outcome, run_in, slug
from tests.bad_inputs import BAD_INPUTS, DOCUMENT, document, write_bad_files
from tests.forks import fork_processes_of_runs, run_forked, run_script


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad").resolve()
    write_bad_files(root)
    return root


@pytest.fixture(scope="module")
def outcome_of(folder: Path) -> Callable[[BadInput], Outcome]:
    """Each command line runs once."""
    found: dict[str, Outcome] = {}

    def outcome(case: BadInput) -> Outcome:
        if case.mistake not in found:
            found[case.mistake] = run_in(folder, case)
        return found[case.mistake]

    return outcome


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: slug(case.mistake))
def test_bad_input_is_named_with_its_value_and_a_way_out(
    case: BadInput, outcome_of: Callable[[BadInput], Outcome]
) -> None:
    outcome = outcome_of(case)
    assert outcome.code == 2, outcome.output[-3000:]
    missing = [part for part in case.says if part not in outcome.message]
    assert not missing, outcome.message
    assert "Traceback" not in outcome.output


def test_the_mistakes_are_many_and_different() -> None:
    assert len(BAD_INPUTS) >= 30
    assert len({slug(case.mistake) for case in BAD_INPUTS}) == len(BAD_INPUTS)
    assert len({(case.program, case.config, case.words) for case in BAD_INPUTS}) == len(BAD_INPUTS)


def test_no_file_ran_a_program(folder: Path, outcome_of: Callable[[BadInput], Outcome]) -> None:
    for case in BAD_INPUTS:
        if "run a program" in case.mistake:
            outcome_of(case)
    assert not list(folder.rglob("pwned"))


def test_the_document_shows_what_the_programs_say(
    outcome_of: Callable[[BadInput], Outcome],
) -> None:
    """``python -m tests.bad_inputs`` writes it anew."""
    assert DOCUMENT.read_text(encoding="utf-8") == document([outcome_of(c) for c in BAD_INPUTS])


def test_the_program_itself_prints_one_paragraph(folder: Path) -> None:
    case = next(case for case in ARGUMENTS if case.mistake == "a mistyped key")
    result = run_script(ROOT / "train_net.py", case.command(), folder)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: there is no config key 'SSOD.SCORE_TRESHOLD'")
    assert "\n\n" not in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("DATASETS.UNLABELED \"('folder://gone',)\"", "folder://gone: no folder 'gone'"),
        (
            "DATASETS.UNLABELED \"('folder://cut',)\" DATASETS.LABELED_PERCENT 100 "
            "DATALOADER.MAX_UNREADABLE_SHARE 0 SOLVER.MAX_ITER 100",
            "could not be read, more than DATALOADER.MAX_UNREADABLE_SHARE 0.0 allows",
        ),
    ],
    ids=["before", "during"],
)
def test_two_processes_stop_together_and_say_it_once(
    folder: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that is missing, and an image that only one of the processes draws at first."""
    if torch.cuda.is_available():
        pytest.skip("--num-gpus 2 takes the GPUs where there are some")
    fork_processes_of_runs(monkeypatch)
    output = f"runs/two_{slug(message)[:20]}"
    command = ["--config-file", CONFIG, "--num-gpus", "2", "--dist-url", "auto"]
    command += ["OUTPUT_DIR", output, *shlex.split(words)]
    result = run_forked(lambda: sys.exit(train_net.run(command)), folder=folder)
    assert result.returncode == 2, result.stderr[-3000:]
    assert "Traceback" not in result.stdout + result.stderr
    text = " ".join(result.stderr.split())
    assert text.count("error: ") == 1
    assert message in text
    log = "".join(path.read_text() for path in (folder / output).glob("log.txt*"))
    assert "Traceback" in log


def test_the_traceback_is_there_for_who_asks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRE_SSOD_TRACEBACK", "1")
    outcome = run_in(folder, BadInput("", "asked", "SEED x", ()))
    assert outcome.code == 2
    assert "Traceback" in outcome.output
    assert outcome.message.startswith("SEED is 'x'")
