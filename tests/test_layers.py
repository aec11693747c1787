"""The floors of the package: imports run downwards only, and never in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "dre_ssod"

# The house from the ground up: a room may use every floor below its own, and no other room of its
# floor. A room is a folder; a file that stands on another floor than its folder is named itself.
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "errors structures transfers memory quiet starting yaml_text",
        "files geometry workers launch settings modeling.backbones data.kinds",
        "locks",
        "stores",
        "data.text_files",
        "checkpoints data.images data.records data.remarks data.sample data.views modeling",
        "data.usable",
        "data.sources teacher",
        "data data.splits",
        "data.audit data.conversion",
        "methods",
        "evaluation",
        "config",
        "runs launch.program",
        "inspection advice",
        "engine deployment",
        "engine.hooks report",
        "engine.trainer engine.setup",
        "benchmark engine.stages tables",
        "gpu_check",
    )
)
# Rooms that stand above others and have no business with them.
STRANGERS = {
    "data": {"modeling", "teacher", "checkpoints", "launch"},
    "modeling": {"launch"},
    "checkpoints": {"launch"},
    "teacher": {"data", "launch"},
    "evaluation": {"launch"},
    "advice": {"launch", "modeling", "checkpoints"},
    "deployment": {"engine"},
}
# The face of the package only hands on names.
FACES = {"dre_ssod": {"config", "modeling", "data.sources", "quiet", "starting", "deployment"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    """The longest part of a module's name that has a floor."""
    parts = name.split(".")[1:]
    known = frozenset().union(*FLOORS)
    for length in range(len(parts), 0, -1):
        if (room := ".".join(parts[:length])) in known:
            return room
    raise AssertionError(f"{name} has no floor yet: give its room one in FLOORS")


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


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
    assert "dre_ssod.data.sample.dataset" in imported_modules(
        MODULES["dre_ssod.data.sources.opening"]
    )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downwards_only(name: str) -> None:
    imported = {module: room_of(module) for module in imported_modules(MODULES[name])}
    if name in FACES:
        assert set(imported.values()) <= FACES[name]
        return
    room = room_of(name)
    strangers = STRANGERS.get(room.partition(".")[0], set())
    for module, other in imported.items():
        assert other.partition(".")[0] not in strangers, f"{name} imports {module}"
        assert other == room or floor_of(other) < floor_of(room), f"{name} imports {module}"


def test_no_import_goes_in_a_circle() -> None:
    # A package imports its __init__ first, but inside the package that is no edge of its own.
    graph = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())


def test_the_package_does_not_know_its_callers() -> None:
    above = {"tools", "tests", "train_net", "dre_ssod_cli"}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                roots = [alias.name for alias in node.names]
                if isinstance(node, ast.ImportFrom):
                    roots = [node.module or ""]
                callers = {root.split(".")[0] for root in roots} & above
                assert not callers, f"{name} imports {callers}"


def test_every_room_has_a_face() -> None:
    """What lives there, which its docstring says."""
    for folder in {path.parent for path in MODULES.values()}:
        face = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(face), folder


def test_rooms_are_small() -> None:
    """A dozen files beside the face."""
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= 13, folder


def test_train_net_stays_small() -> None:
    lines = (ROOT / "train_net.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 100
