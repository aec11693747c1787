"""A table as its YAML file defines it: rows, and how often each is run.

::

    title: Blood cells, 20 labels
    config: ../bccd_10pct.yaml      # of every row that names none; from the folder of this file
    set: {SOLVER.AMP.ENABLED: False}
    folds: [0, 1, 2]                # DATASETS.LABELED_FOLD of each run of a row
    seeds: [1, 2, 3]                # SEED of each run, beside the folds where both are given
    reference: mean teacher         # the row that others are compared with
    rows:
      mean teacher: {config: ../baselines/bccd_10pct_mean_teacher.yaml}
      DRE: {}
      Soft Teacher: {method: ../methods/SoftTeacher.yaml}
      DRE, tau 0.9: {set: {SSOD.SCORE_THRESHOLD: 0.9}}

A row is made from ``config``, then ``method``, a further file over it, then the ``set`` of the
table, then its own. Rows that name a ``curve`` and their ``x`` on it are drawn as such;
``x_label`` of the table says what x is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from dre_ssod.config.effects import check_effects
from dre_ssod.config.reading import read_config
from dre_ssod.errors import ConfigError, UserError
from dre_ssod.yaml_text import refuse_repeated_keys

_KEYS = ("title", "text", "config", "set", "folds", "seeds", "reference", "x_label", "rows")
_ROW_KEYS = ("config", "method", "set", "curve", "x")
_OF_RUNS = {"folds": "DATASETS.LABELED_FOLD", "seeds": "SEED"}
"""Keys of a table by which its runs differ, and the config keys that they give each run."""


class TableError(UserError):
    """A table that cannot be read or run."""


@dataclass(frozen=True)
class Repeat:
    """One of the runs of each row.

    Attributes:
        seed: SEED; None for that of the row.
        fold: DATASETS.LABELED_FOLD; None for that of the row.
    """

    seed: int | None
    fold: int | None

    @property
    def name(self) -> str:
        """For people and in file names, such as "fold 0, seed 1"."""
        parts = {"fold": self.fold, "seed": self.seed}
        named = ", ".join(f"{key} {value}" for key, value in parts.items() if value is not None)
        return named or "one run"

    def applied(self, cfg: CfgNode) -> CfgNode:
        """The config of this run of a row."""
        own = cfg.clone()
        fold = self.fold if _is_drawn(cfg) else None
        keys = {_OF_RUNS["folds"]: fold, _OF_RUNS["seeds"]: self.seed}
        for key, value in keys.items():
            if value is not None:
                own.merge_from_list([key, value])
        return own


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: as shown.
        files: config files, each over the one before.
        opts: keys and values in turn, over the files.
        own: the keys of its own ``set``, each of which must have an effect.
        curve: name of the curve that it is a point of; "" for none.
        x: where it stands there, positive.
    """

    name: str
    files: tuple[Path, ...]
    opts: tuple[Any, ...]
    own: tuple[str, ...]
    curve: str = ""
    x: float = 1.0

    def config(self) -> CfgNode:
        """The config of its runs, but for what tells them apart.

        Raises:
            ConfigError: naming the key that cannot be used, or has no effect on this row.
        """
        first, *more = map(str, self.files)
        cfg = read_config(first, self.opts, more_files=more)
        try:
            check_effects(cfg, self.own)
        except ConfigError as error:
            raise ConfigError(f"row {self.name!r}: {error}") from error
        return cfg


@dataclass(frozen=True)
class Cell:
    """One run of a table."""

    row: str
    repeat: Repeat
    cfg: CfgNode

    @property
    def name(self) -> str:
        """Such as "DRE (fold 0)"."""
        return f"{self.row} ({self.repeat.name})"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its file, without the ending.
        title: a line.
        text: what is to be known about it; "" for nothing.
        rows: by name.
        repeats: the runs of each row.
        reference: name of the row that others are compared with; "" for none.
        x_label: what x of the curves is; "" where nobody says.
    """

    name: str
    title: str
    text: str
    rows: dict[str, Row]
    repeats: tuple[Repeat, ...]
    reference: str
    x_label: str

    def cells(self) -> list[Cell]:
        """All runs, the first of each row first: an unfinished table then compares all rows.

        Where all images are labeled, or a split file says which are, folds draw nothing: of those
        with the same seed the first is the only one, so that no run counts twice.

        Raises:
            ConfigError: naming the key that cannot be used.
        """
        configs = {name: row.config() for name, row in self.rows.items()}
        first_of_seed = {repeat.seed: repeat for repeat in reversed(self.repeats)}
        return [
            Cell(name, repeat, repeat.applied(configs[name]))
            for repeat in self.repeats
            for name in self.rows
            if first_of_seed[repeat.seed] is repeat or _is_drawn(configs[name])
        ]

    def chosen(self, rows: Sequence[str] | None, runs: Sequence[str] | None) -> list[Cell]:
        """The runs of these rows and of these names; None: of all.

        Raises:
            TableError: if there is no such row or run, or none of both.
        """
        valid = {"row": list(self.rows), "run": [repeat.name for repeat in self.repeats]}
        wanted = {"row": rows or valid["row"], "run": runs or valid["run"]}
        for kind, names in wanted.items():
            for name in names:
                if name not in valid[kind]:
                    raise TableError(f"--{kind} {name!r}: the table has {', '.join(valid[kind])}")
        cells = self.cells()
        found = [c for c in cells if c.row in wanted["row"] and c.repeat.name in wanted["run"]]
        if not found:
            own = ", ".join(cell.name for cell in cells if cell.row in wanted["row"])
            raise TableError(
                f"--run {', '.join(wanted['run'])}: no such run of these rows, which have {own}; "
                "where DATASETS.LABELED_PERCENT is 100, as beside DATASETS.SPLIT_FILE, all folds "
                "are the same"
            )
        return found

    def compared_with(self, row: str) -> Table:
        """The same with another reference.

        Raises:
            TableError: if there is no such row.
        """
        if row not in self.rows:
            raise TableError(f"--reference {row!r}: the table has {', '.join(self.rows)}")
        return replace(self, reference=row)


def _is_drawn(cfg: CfgNode) -> bool:
    """Whether a draw decides which images are labeled; beside a split file there is none."""
    return bool(cfg.DATASETS.LABELED_PERCENT < 100)


def read_table(path: Path, opts: Sequence[Any] = ()) -> Table:
    """Read a table.

    Args:
        opts: keys and values in turn, for all rows, over what the file says.

    Raises:
        TableError: naming the file and what in it cannot be used, or a key of ``opts`` that the
            table gives each run itself.
    """
    content = _load(path)
    _refuse_others(path, "the table", content, _KEYS)
    rows = content.get("rows")
    if not isinstance(rows, dict) or not rows:
        raise TableError(f"{path}: 'rows' must hold the rows by name, such as 'DRE: {{}}'")
    read = {str(name): _row(path, str(name), row, content, opts) for name, row in rows.items()}
    _refuse_those_of_runs(path, content, opts)
    _refuse_equal_points(path, read.values())
    reference = str(content.get("reference", ""))
    if reference and reference not in read:
        raise TableError(
            f"{path}: the reference is {reference!r}, which is no row; rows: {', '.join(read)}"
        )
    return Table(
        name=path.stem,
        title=str(content.get("title", path.stem)),
        text=str(content.get("text", "")),
        rows=read,
        repeats=_repeats(path, content),
        reference=reference,
        x_label=str(content.get("x_label", "")),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        refuse_repeated_keys(text)
        content = yaml.safe_load(text)
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise TableError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise TableError(f"{path}: a table holds keys, {', '.join(_KEYS)}; it is {content!r:.80}")
    return content


def _refuse_others(path: Path, what: str, given: Mapping[Any, Any], known: Sequence[str]) -> None:
    others = [str(key) for key in given if key not in known]
    if others:
        raise TableError(
            f"{path}: {what} has no {', '.join(map(repr, others))}; valid are {', '.join(known)}"
        )


def _row(path: Path, name: str, row: Any, table: Mapping[str, Any], opts: Sequence[Any]) -> Row:
    if not isinstance(row, dict):
        raise TableError(f"{path}: row {name!r} is {row!r:.80}; write '{name}: {{}}' for no change")
    _refuse_others(path, f"row {name!r}", row, _ROW_KEYS)
    files = [row.get("config", table.get("config")), row.get("method")]
    if not isinstance(files[0], str):
        raise TableError(f"{path}: row {name!r} names no 'config' file, and the table none either")
    own: list[Any] = []
    for where, keys in (("the table", table.get("set", {})), (f"row {name!r}", row.get("set", {}))):
        if not isinstance(keys, dict):
            raise TableError(f"{path}: 'set' of {where} must hold config keys and values")
        own += [word for pair in keys.items() for word in pair]
    return Row(
        name,
        tuple(path.parent / str(file) for file in files if file is not None),
        (*own, *opts),
        tuple(map(str, row.get("set", {}))),
        str(row.get("curve", "")),
        _x(path, name, row),
    )


def _refuse_those_of_runs(path: Path, table: Mapping[str, Any], opts: Sequence[Any]) -> None:
    """What is set for all runs of a row would be lost where each has a value of its own."""
    places = {"the command line": dict(zip(opts[::2], opts[1::2], strict=False))}
    places["'set' of the table"] = table.get("set", {})
    for name, row in table["rows"].items():
        places[f"'set' of row {str(name)!r}"] = row.get("set", {})
    for kind, key in _OF_RUNS.items():
        for where, keys in places.items():
            if kind in table and key in keys:
                raise TableError(
                    f"{path}: {where} has {key} {keys[key]!r:.80}, but '{kind}' of the table, "
                    f"{table[kind]!r:.80}, gives each run its own; leave out one of the two"
                )


def _x(path: Path, name: str, row: Mapping[Any, Any]) -> float:
    x = row.get("x", 1.0)
    if ("curve" in row) != ("x" in row) or type(x) not in (int, float) or x <= 0:
        raise TableError(f"{path}: row {name!r} needs both a 'curve' and its 'x' above 0, or none")
    return float(x)


def _refuse_equal_points(path: Path, rows: Iterable[Row]) -> None:
    """Of two rows in one place of a curve, nobody knows which one it goes through."""
    places: dict[tuple[str, float], str] = {}
    for row in rows:
        first = places.setdefault((row.curve, row.x), row.name)
        if row.curve and first != row.name:
            raise TableError(
                f"{path}: rows {first!r} and {row.name!r} are both at x {row.x:g} of the curve "
                f"{row.curve!r}; give one of them another 'curve' or 'x', or leave both out of it"
            )


def _repeats(path: Path, content: Mapping[str, Any]) -> tuple[Repeat, ...]:
    given = {key: content[key] for key in _OF_RUNS if key in content}
    for key, numbers in given.items():
        fits = isinstance(numbers, list) and numbers and all(type(n) is int for n in numbers)
        if not fits or len(set(numbers)) < len(numbers):
            raise TableError(f"{path}: '{key}' is {numbers!r:.80}; it must be [0, 1, 2] or so")
    if not given:
        return (Repeat(None, None),)
    lengths = {len(numbers) for numbers in given.values()}
    if len(lengths) > 1:
        raise TableError(f"{path}: 'folds' and 'seeds' go in pairs, so there must be as many")
    count = lengths.pop()
    none = [None] * count
    pairs = zip(given.get("seeds", none), given.get("folds", none), strict=True)
    return tuple(Repeat(seed, fold) for seed, fold in pairs)
