"""The command lines of all programs: help and mistakes take no more than the standard library."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from dre_ssod.data.audit.files import LEVELS
from dre_ssod.data.audit.sets import ROLES
from dre_ssod.data.conversion.convert import FORMS, IMAGE_MODES
from dre_ssod.deployment.labeling.label_tasks import FORMS as TASKS
from dre_ssod.deployment.labeling.uncertainty import CRITERIA
from dre_ssod.gpu_check.steps import STEPS
from tests import ROOT

PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in (ROOT / "train_net.py", *sorted((ROOT / "tools").glob("*.py")))
}
ASK = """
import contextlib, importlib, io, json, sys
before = {name.partition(".")[0] for name in sys.modules}
answers = {}
for name in sys.argv[1:]:
    program = importlib.import_module(name)
    for words in ("--help", "--no-such-option", "", "--output s3://bucket/new"):
        said, complained, code = io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            try:
                program.parse_arguments(words.split())
            except SystemExit as end:
                code = end.code
        answers[f"{name} {words}"] = code, said.getvalue(), complained.getvalue()
loaded = {name.partition(".")[0] for name in sys.modules} - before - sys.stdlib_module_names
loaded = [name for name in loaded if not name.startswith("_")]
json.dump({"answers": answers, "loaded": loaded}, sys.stdout)
"""


def start(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def asked() -> dict[str, Any]:
    """What all programs answer in one process, and the packages that were imported for it."""
    result = start("-c", ASK, *PATHS)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_nothing_is_imported_but_the_standard_library(asked: dict[str, Any]) -> None:
    own = {"dre_ssod_cli", "tools", "train_net"}
    # Coverage measures started processes too.
    assert own <= set(asked["loaded"]) <= own | {"coverage"}


@pytest.mark.parametrize("name", PATHS)
def test_help_shows_how_the_program_is_called_and_nothing_else(
    name: str, asked: dict[str, Any]
) -> None:
    code, said, complained = asked["answers"][f"{name} --help"]
    assert (code, complained) == (0, "")
    # From Python 3.13 on, docstrings have lost their indentation.
    assert f"python {PATHS[name].relative_to(ROOT)} " in said


@pytest.mark.parametrize("name", PATHS)
def test_an_unknown_option_ends_the_program(name: str, asked: dict[str, Any]) -> None:
    code, _, complained = asked["answers"][f"{name} --no-such-option"]
    assert (code, complained.count("error: ")) == (2, 1)


def test_what_is_missing_ends_the_program(asked: dict[str, Any]) -> None:
    complaints = {name: asked["answers"][f"{name} "] for name in PATHS}
    stopped = {name for name, (code, _, _) in complaints.items() if code == 2}
    assert stopped >= {"tools.convert_dataset", "tools.make_split", "tools.plot_run"}
    assert all("error: " in complaints[name][2] for name in stopped)


def test_nothing_is_written_to_an_address(asked: dict[str, Any]) -> None:
    """Not even to a folder ``s3:``, which its path on this machine would be."""
    options = {name: asked["answers"][f"{name} --help"][1] for name in PATHS}
    # Not those whose examples show the option of another program.
    writers = [name for name, said in options.items() if "\n  --output " in said]
    assert len(writers) >= 10
    for name in writers:
        code, _, complained = asked["answers"][f"{name} --output s3://bucket/new"]
        assert code == 2
        assert "argument --output: s3://bucket/new is an address" in complained


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tools.check_dataset", LEVELS),
        ("tools.convert_dataset", tuple(FORMS)),
        ("tools.convert_dataset", IMAGE_MODES),
        ("tools.pseudo_label", CRITERIA),
        ("tools.pseudo_label", TASKS),
    ],
)
def test_choices_are_those_that_the_package_knows(
    name: str, values: tuple[str, ...], asked: dict[str, Any]
) -> None:
    assert f"{{{','.join(values)}}}" in asked["answers"][f"{name} --help"][1]


def test_names_are_those_that_the_package_knows(asked: dict[str, Any]) -> None:
    said = " ".join(asked["answers"]["tools.gpu_check --help"][1].split())
    assert f"(default: all): {', '.join(step.name for step in STEPS)}" in said
    assert tuple(importlib.import_module("tools.check_dataset").KEYS) == ROLES


def test_a_program_that_is_started_answers_the_same(asked: dict[str, Any]) -> None:
    """Its folder, not that of the project, is then the first that modules are looked for in."""
    result = start(str(PATHS["tools.make_split"]), "--no-such-option")
    answer = asked["answers"]["tools.make_split --no-such-option"]
    assert [result.returncode, result.stdout] == answer[:2]
    assert result.stderr.splitlines()[-1].endswith(answer[2].splitlines()[-1].partition("error")[2])
