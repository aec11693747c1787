"""The command lines of all programs: help and mistakes take no more than the standard library."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from PIL import Image

from dre_ssod.data.audit.files import LEVELS
from dre_ssod.data.audit.sets import ROLES
from dre_ssod.data.conversion.convert import FORMS, IMAGE_MODES
from dre_ssod.deployment.labeling.label_tasks import FORMS as TASKS
from dre_ssod.deployment.labeling.uncertainty import CRITERIA
from dre_ssod.gpu_check.steps import STEPS
from tests import ROOT
from tests.tiny_dataset import loggers_kept

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
    written = [f"--{name} s3://bucket/new" for name in ("output", "json", "results", "folder")]
    for words in ("--help", "--no-such-option", "", *written):
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


DELIVERIES = {
    "tools.analyze_localization --output": "--config-file CONFIG",
    "tools.benchmark --json": "eval",
    "tools.check_dataset --json": "--labeled SET",
    "tools.convert_dataset --output": "SET --to yolo",
    "tools.demo --json": "--input IMAGE",
    "tools.demo --output": "--input IMAGE",
    "tools.export_model --output": "--run RUN",
    "tools.make_split --output": "SET --percent 10",
    "tools.merge_labels --output": "--corrected SET",
    "tools.pack_images --output": "SET",
    "tools.plot_run --output": "RUN",
    "tools.report --output": "RUN",
    "tools.visualize_data --output": "--config-file CONFIG",
}
"""Options that take an address for a finished result, and the least other words."""
WHY_LOCAL = {
    **dict.fromkeys(
        (
            "tools.gpu_check --json",
            "tools.pseudo_label --output",
            "tools.quickstart --output",
            "tools.run_table --output",
            "tools.run_table --results",
            "tools.simulate_labeling --output",
            "tools.submit --folder",
        ),
        "needs the files and locks of a disk",
    ),
    "tools.new_config --output": "it names the config that it builds upon by a path from it",
}


def test_what_is_written_goes_to_a_store_or_says_why_not(asked: dict[str, Any]) -> None:
    """It never goes to a folder ``s3:``, which the path of an address on this machine would be."""
    found = set()
    for words, (code, _, complained) in asked["answers"].items():
        name, option, *_ = words.split(" ")
        # Not those whose examples show the option of another program.
        if not words.endswith(" s3://bucket/new") or (
            f"\n  {option} " not in asked["answers"][f"{name} --help"][1]
        ):
            continue
        found.add(words := f"{name} {option}")
        refusal = f"argument {option}: s3://bucket/new is an address"
        assert (refusal in complained) == (words in WHY_LOCAL)
        if words in WHY_LOCAL:
            assert code == 2
            assert WHY_LOCAL[words] in " ".join(complained.split())
    # A benchmark's options come after its name.
    assert found | {"tools.benchmark --json"} == {*DELIVERIES, *WHY_LOCAL}


@pytest.mark.parametrize("words", DELIVERIES)
def test_where_a_result_goes_is_looked_at_before_the_work(
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing else that these command lines name is there."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("IMAGE", "png")
    name, option = words.split(" ")
    program = importlib.import_module(name)
    if hasattr(program, "configure"):
        monkeypatch.setattr(program, "configure", lambda args: CfgNode())
    arguments = [*DELIVERIES[words].split(), option, "zip://new::s3://bucket/a.zip"]
    with loggers_kept():
        assert program.run(arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "error: zip://new::s3://bucket/a.zip: nothing is written there. Name a path" in said
    assert [path.name for path in tmp_path.iterdir()] == ["IMAGE"]


class _Taken(Exception):
    """Carries the parser of a program, which it makes anew for each command line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def options_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All options, those of the commands below a program too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from options_of(below)
        elif action.option_strings:
            yield action


@pytest.mark.parametrize("name", PATHS)
def test_an_option_of_several_values_may_be_repeated(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that were given first are kept, and those that stand for none are not."""

    def take(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Taken(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", take)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_intermixed_args", take)
    with pytest.raises(_Taken) as taken:
        importlib.import_module(name).parse_arguments([])
    parser = taken.value.parser
    for action in options_of(parser):
        if action.nargs in ("+", "*"):
            given = argparse.Namespace(**{action.dest: action.default})
            for value in ("first", "second"):
                action(parser, given, [value], action.option_strings[0])
            assert vars(given) == {action.dest: ["first", "second"]}, action.option_strings


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
