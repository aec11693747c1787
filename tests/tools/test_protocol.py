"""Every program is started in the same way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import ROOT

PROGRAMS = sorted([ROOT / "train_net.py", *(ROOT / "tools").glob("*.py")])


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_parses_runs_and_ends_as_all_others_do(path: Path) -> None:
    module = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    for name, argument in (("parse_arguments", "arguments"), ("main", "args")):
        assert [a.arg for a in functions[name].args.args] == [argument], name
    starts = "run = runner(main, parse_arguments)", "return run_processes(main, parse_arguments("
    assert any(start in ast.unparse(module) for start in starts)
    assert ast.unparse(module.body[-1]).endswith("sys.exit(run())")
