"""Tables as their files define them, and what is said of files that define none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dre_ssod.config.checks import check_config
from dre_ssod.errors import ConfigError
from dre_ssod.tables.definition import Repeat, TableError, read_table
from tests import ROOT
from tests.tables.conftest import CONTENT, WriteTable

TABLES = sorted((ROOT / "docs/tables").glob("*.yaml"))


def test_a_row_is_its_config_a_method_over_it_and_what_is_set(
    tmp_path: Path, write_table: WriteTable
) -> None:
    (tmp_path / "method.yaml").write_text("SSOD: {SCORE_THRESHOLD: 0.7, UNSUP_LOSS_WEIGHT: 3}\n")
    table = write_table(
        base="SSOD: {SCORE_THRESHOLD: 0.5, BURN_IN_ITERS: 9}\n",
        set={"SSOD.UNSUP_LOSS_WEIGHT": 2, "SOLVER.STEPS": [7]},
        rows={"a": {"method": "method.yaml"}, "b": {"set": {"SOLVER.STEPS": [8]}}},
        reference="a",
    )
    a, b = (Repeat(seed=4, fold=1).applied(row.config()) for row in table.rows.values())
    assert (a.SSOD.SCORE_THRESHOLD, a.SSOD.BURN_IN_ITERS, a.SSOD.UNSUP_LOSS_WEIGHT) == (0.7, 9, 2.0)
    assert (a.SOLVER.STEPS, b.SOLVER.STEPS, b.SSOD.SCORE_THRESHOLD) == ((7,), (8,), 0.5)
    assert (a.SEED, a.DATASETS.LABELED_FOLD) == (4, 1)


def test_the_command_line_comes_last(tmp_path: Path, write_table: WriteTable) -> None:
    write_table(set={"SOLVER.MAX_ITER": 7})
    table = read_table(tmp_path / "table.yaml", ["SOLVER.MAX_ITER", "8"])
    assert {cell.cfg.SOLVER.MAX_ITER for cell in table.cells()} == {8}
    # Of SEED and the fold that which the table does not give its runs.
    table = read_table(tmp_path / "table.yaml", ["SEED", "8"])
    assert {cell.cfg.SEED for cell in table.cells()} == {8}


def test_seeds_and_folds_go_in_pairs_and_the_first_of_each_row_comes_first(
    write_table: WriteTable,
) -> None:
    table = write_table(folds=[0, 3], seeds=[1, 2])
    assert [cell.name for cell in table.cells()] == [
        *("plain (fold 0, seed 1)", "DRE (fold 0, seed 1)"),
        *("plain (fold 3, seed 2)", "DRE (fold 3, seed 2)"),
    ]


def test_where_all_images_are_labeled_folds_are_one_run(write_table: WriteTable) -> None:
    rows: dict[str, Any] = {"plain": {}, "all": {"set": {"DATASETS.LABELED_PERCENT": 100.0}}}
    table = write_table(rows=rows, folds=[0, 3])
    names = [cell.name for cell in table.cells()]
    assert names == ["plain (fold 0)", "all (fold 0)", "plain (fold 3)"]
    said = "--run fold 3: no such run of these rows, which have all .fold 0."
    with pytest.raises(TableError, match=said):
        table.chosen(["all"], ["fold 3"])
    # Seeds tell them apart.
    assert len(write_table(rows=rows, folds=[0, 3], seeds=[1, 2]).cells()) == 4


def test_where_a_split_file_says_which_images_are_labeled_folds_are_one_run(
    write_table: WriteTable,
) -> None:
    chosen = {"DATASETS.LABELED_PERCENT": 100.0, "DATASETS.SPLIT_FILE": "split.json"}
    table = write_table(rows={"plain": {}, "chosen": {"set": chosen}}, folds=[1, 3])
    assert [cell.name for cell in table.cells()] == [
        *("plain (fold 1)", "chosen (fold 1)", "plain (fold 3)")
    ]
    # A fold beside the file would be refused.
    assert [cell.cfg.DATASETS.LABELED_FOLD for cell in table.cells()] == [1, 0, 3]


def test_a_row_may_set_nothing_without_effect(write_table: WriteTable) -> None:
    """It would be another row's under a name of its own; the table's keys are for any row."""
    voting = {"TEST.VARIANCE_VOTING.SIGMA_T": 0.2}
    table = write_table(rows={"voting": {"set": voting}}, reference="")
    said = r"row 'voting': .* TEST.VARIANCE_VOTING.SIGMA_T 0.2 \(TEST.VARIANCE_VOTING.ENABLED is"
    with pytest.raises(ConfigError, match=said):
        table.cells()
    write_table(rows={"voting": {}}, reference="", set=voting).cells()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"row": {}}, "the table has no 'row'"),
        ({"rows": {}}, "'rows' must hold"),
        ({"rows": {"a": None}}, "row 'a' is None"),
        (
            {"rows": {"a": {"sett": {}}}},
            "row 'a' has no 'sett'; valid are config, method",
        ),
        ({"rows": {"a": {"set": [1]}}}, "'set' of row 'a'"),
        ({"rows": {"a": {"curve": "c"}}}, "row 'a' needs both a 'curve' and its 'x'"),
        ({"rows": {"a": {"curve": "c", "x": 0}}}, "'x' above 0"),
        ({"config": 3}, "names no 'config' file"),
        (
            {"rows": {n: {"curve": "c", "x": 5} for n in "ab"}},
            "rows 'a' and 'b' are both at x 5 of the curve 'c'",
        ),
        ({"reference": "nobody"}, "the reference is 'nobody', which is no row; rows: plain, DRE"),
        ({"folds": 3}, "'folds' is 3"),
        ({"folds": [1, 1]}, r"'folds' is \[1, 1\]"),
        ({"seeds": [1]}, "there must be as many"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}, sort_keys=False))
    with pytest.raises(TableError, match=said) as error:
        read_table(path)
    assert str(path) in str(error.value)


def test_a_row_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text("rows:\n  a: {config: b.yaml}\n  a: {config: c.yaml}\n")
    with pytest.raises(TableError, match="the key 'a' is given twice"):
        read_table(path)


@pytest.mark.parametrize(
    ("changes", "opts", "said"),
    [
        ({"seeds": [1, 2, 3]}, ["SEED", "7"], "the command line has SEED '7', but 'seeds' of"),
        ({"set": {"DATASETS.LABELED_FOLD": 3}}, [], "'set' of the table has .*FOLD 3, but 'folds'"),
        (
            {"seeds": [1, 2, 3], "rows": {"plain": {}, "DRE": {"set": {"SEED": 9}}}},
            [],
            r"'set' of row 'DRE' has SEED 9, but 'seeds' of the table, \[1, 2, 3\], gives each run",
        ),
    ],
)
def test_what_each_run_has_of_its_own_is_not_set_for_all(
    tmp_path: Path, changes: dict[str, Any], opts: list[str], said: str
) -> None:
    """It would be lost without a word."""
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}, sort_keys=False))
    with pytest.raises(TableError, match=said) as error:
        read_table(path, opts)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "3", "\0"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(TableError, match=r"table\.yaml: (not valid YAML|a table holds keys)"):
        read_table(path)
    with pytest.raises(TableError, match=r"none\.yaml: cannot be read"):
        read_table(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_run_of_a_table_has_a_config_that_is_right(path: Path) -> None:
    table = read_table(path)
    for row in table.rows.values():
        check_config(row.config(), 1)
