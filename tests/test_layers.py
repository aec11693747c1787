"""The floors of the package: imports run downwards only, and never in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dre_ssod"

# What each part may import besides itself. `data` and `modeling` do not know each other.
GROUND = {"geometry", "structures", "transfers", "config", "errors", "allocator"}
CONFIG = {"config_reading", "config_values", "config_checks"}
ALLOWED = {
    "geometry": {"structures"},
    "structures": set(),
    "transfers": set(),
    "config": set(),
    "errors": set(),
    "allocator": set(),
    "config_reading": GROUND,
    "data": GROUND,
    "modeling": GROUND,
    "config_values": GROUND | {"config_reading"},
    "config_checks": GROUND | {"config_values", "modeling"},
    "teacher": GROUND | {"modeling"},
    "inspection": GROUND | {"teacher", "data", "modeling"},
    "engine": GROUND | CONFIG | {"teacher", "data", "modeling", "inspection"},
    "deployment": GROUND | CONFIG | {"data", "modeling", "inspection", "engine"},
    "benchmark": GROUND | CONFIG | {"teacher", "data", "modeling", "engine", "deployment"},
    "__init__": GROUND | {"data", "modeling"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(path: Path) -> str:
    """First name below the package; a package's own ``__init__`` counts as a part."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(path: Path) -> set[str]:
    """Modules of the package that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            for alias in node.names:
                for name in (f"{node.module}.{alias.name}", node.module):
                    if name in MODULES:
                        found.add(name)
                        break
    return found


def test_the_walk_finds_imports() -> None:
    assert "dre_ssod.engine.ema" in imported_modules(MODULES["dre_ssod.engine.step"])
    assert "dre_ssod.modeling" in imported_modules(MODULES["dre_ssod"])
    # Inside a function.
    assert "dre_ssod.data.sample_set" in imported_modules(MODULES["dre_ssod.data.sources"])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downwards_only(name: str) -> None:
    part = part_of(MODULES[name])
    assert part in ALLOWED, f"{part} has no floor yet: say in ALLOWED what it may import"
    for imported in imported_modules(MODULES[name]):
        below = part_of(MODULES[imported])
        assert below == part or below in ALLOWED[part], f"{name} imports {imported}"


def test_no_import_goes_in_a_circle() -> None:
    # A package imports its __init__ first, but inside the package that is no edge of its own.
    graph = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())


def test_the_package_does_not_know_its_callers() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                roots = [alias.name for alias in node.names]
                if isinstance(node, ast.ImportFrom):
                    roots = [node.module or ""]
                callers = {root.split(".")[0] for root in roots} & {"tools", "tests", "train_net"}
                assert not callers, f"{name} imports {callers}"


def test_every_folder_of_the_package_has_an_init() -> None:
    folders = {path.parent for path in MODULES.values()}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_train_net_stays_small() -> None:
    lines = (ROOT / "train_net.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 100
