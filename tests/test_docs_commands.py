"""Every command in README.md and docs can be given as it stands there: options, keys and files."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dre_ssod.config.reading import read_config
from dre_ssod.runs.detector import entry_for_weights
from tests import ROOT
from tests.factories import tiny_cfg, tiny_model

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LOOP = re.compile(r"for (\w+) in ([^;]+); do")
# What stands for a config of the reader's own, and a config of ours in its place.
OWN_CONFIG = re.compile(r"FILE|mine\.yaml|output/\w+/config\.yaml")
ANY_CONFIG = "configs/quickstart.yaml"
OTHER_PROGRAMS = {"done;", "source"}


@dataclass(frozen=True)
class Command:
    """A program of this project and the words behind its name."""

    document: str
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {self.program} {' '.join(self.words)}"[:100]


def blocks(document: Path, language: str) -> Iterator[str]:
    for found, block in BLOCK.findall(document.read_text(encoding="utf-8")):
        if found == language:
            yield block


def lines_of(block: str) -> Iterator[list[str]]:
    """The words of each command line; in a loop, of its first round."""
    for line in block.replace("\\\n", " ").splitlines():
        for name, values in LOOP.findall(line):
            block = block.replace(f"${name}", values.split()[0])
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(LOOP.sub("", line), comments=True)
        if words:
            yield words


def command(document: Path, words: list[str]) -> Command | None:
    """The program of this project that a line starts; None if it starts another one."""
    if words[:2] == ["python", "-m"] and words[2].startswith("docs."):
        return Command(document.name, words[2], tuple(words[3:]))
    found = next((n for n, word in enumerate(words) if word.endswith(".py")), None)
    if found is None:
        return None
    path = words[found]
    assert (ROOT / path).is_file(), f"{document.name}: there is no {path}"
    name = path.removesuffix(".py").replace("/", ".")
    rest = [ANY_CONFIG if OWN_CONFIG.fullmatch(word) else word for word in words[found + 1 :]]
    return Command(document.name, name, tuple(rest))


LINES = [(d, line) for d in DOCUMENTS for block in blocks(d, "bash") for line in lines_of(block)]
COMMANDS = [found for document, line in LINES if (found := command(document, line))]


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 30
    assert {c.document for c in COMMANDS} > {"README.md", "tools.md", "performance.md"}
    assert any(c.program == "train_net" and "--num-machines" in c.words for c in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_options_and_keys_exist(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    args = importlib.import_module(command.program).parse_arguments(list(command.words))
    if hasattr(args, "config_file") or getattr(args, "opts", None):
        read_config(getattr(args, "config_file", "") or "", list(getattr(args, "opts", None) or ()))


@pytest.mark.parametrize("program", sorted({command.program for command in COMMANDS}))
def test_each_program_is_run_by_a_test_file_of_its_name(program: str) -> None:
    folder, _, name = program.rpartition(".")
    assert (ROOT / "tests" / folder / f"test_{name}.py").is_file()


def test_other_lines_are_targets_of_make_or_known() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    for document, line in LINES:
        if command(document, line):
            continue
        if line[0] != "make":
            assert line[0] in OTHER_PROGRAMS, f"{document.name}: {' '.join(line)}"
            continue
        for word in line[1:]:
            name, is_variable, _ = word.partition("=")
            assert f"{name} ?=" in makefile if is_variable else name in targets, line


def test_configs_in_yaml_can_be_read(tmp_path: Path) -> None:
    found = [block for document in DOCUMENTS for block in blocks(document, "yaml")]
    assert found
    for number, block in enumerate(found):
        file = tmp_path / f"{number}.yaml"
        # They lie in a folder of configs.
        file.write_text(block.replace("../", f"{ROOT}/configs/"), encoding="utf-8")
        read_config(str(file), [])


@pytest.mark.parametrize("document", ["README.md", "docs/deployment.md"])
def test_python_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "output" / "mine"
    folder.mkdir(parents=True)
    cfg = tiny_cfg(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0})
    run = entry_for_weights(cfg, [{"id": n, "name": f"class{n}"} for n in (1, 2, 3)])
    content = {"model": tiny_model(cfg, spread=0.5).state_dict(), "run": run}
    torch.save(content, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.zeros((64, 96, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / document, "python"):
        # Run by tests/deployment/test_onnx_export.py; OpenVINO is in no requirements.
        if "onnxruntime" in block or "openvino" in block:
            continue
        names: dict[str, Any] = {}
        exec(block, names)
        sigma = names["found"].sigma if "found" in names else names["instances"].pred_boxes_sigma
        assert sigma.shape[1] == 4
