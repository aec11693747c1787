"""Rows that are points of curves, and what a row is worth by the first of these."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from dre_ssod.tables.curves import worth_text
from dre_ssod.tables.definition import Table
from dre_ssod.tables.filed import Result, file_result, find_results, read_results
from dre_ssod.tables.identity import Identity
from dre_ssod.tables.markdown import as_markdown
from dre_ssod.tables.plot import draw_curves
from dre_ssod.tables.report import RowReport, compare_rows, report_rows
from tests.tables.conftest import WriteTable, leave_run


def test_curves_are_drawn_and_say_how_many_labels_a_row_saves(
    write_table: WriteTable, tmp_path: Path
) -> None:
    """The first curve has AP 30 at 10 and 40 at 40; the other one 35 at 10: worth 20."""
    rows = {
        "base 40": {"curve": "base", "x": 40, "set": {"SOLVER.MAX_ITER": 3}},
        "base 10": {"curve": "base", "x": 10},
        "ours 10": {"curve": "ours", "x": 10, "set": {"SOLVER.MAX_ITER": 4}},
        "ours 5": {"curve": "ours", "x": 5, "set": {"SOLVER.MAX_ITER": 5}},
        "ours 40": {"curve": "ours", "x": 40, "set": {"SOLVER.MAX_ITER": 6}},
    }
    table = write_table(rows=rows, folds=[0], reference="")
    for cell, value in zip(table.cells(), (40.0, 30.0, 35.0, 29.0, 41.0), strict=True):
        folder = tmp_path / cell.name
        leave_run(folder, {"teacher": value, "student": value})
        file_result(cell, Identity.of(cell.cfg), folder, tmp_path / "results", "training")
    kept = read_results(tmp_path / "results")
    reports = report_rows(table, kept)
    text = as_markdown(table, reports)
    for line in (
        r"ours 10 +\| 10 +\| 20 +\| 20",
        r"ours 5 +\| 5 +\| < 10 +\| < 10",
        r"ours 40 +\| 40 +\| > 40 +\| > 40",
    ):
        assert re.search(rf"\| {line} +\|", text)
    axes = draw_curves(table.title, reports, "labels").axes
    drawn = [bars.lines[0].get_xydata().tolist() for bars in axes[0].containers]
    assert drawn == [[[10, 30], [40, 40]], [[5, 29], [10, 35], [40, 41]]]
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["5", "10", "40"]
    assert axes[0].get_xlabel() == "labels"


def test_what_a_row_saves_is_read_off_by_the_runs_that_both_have(
    write_table: WriteTable, tmp_path: Path
) -> None:
    """Draws differ by more than rows do: by all of them 41 would be worth 80 and more."""
    full = {"set": {"DATASETS.LABELED_PERCENT": 100.0}}
    rows = {
        "base 10": {"curve": "base", "x": 10},
        "base 40": {"curve": "base", "x": 40, "set": {"SOLVER.MAX_ITER": 3}},
        "base 100": {"curve": "base", "x": 100, **full},
        "ours 10": {"curve": "ours", "x": 10, "set": {"SOLVER.MAX_ITER": 4}},
        "ours 100": {"curve": "ours", "x": 100, "set": {**full["set"], "SOLVER.MAX_ITER": 5}},
    }
    ap = {"base 10": (30.0, 20.0), "base 40": (40.0,), "base 100": (42.0,)}
    ap |= {"ours 10": (35.0, 47.0), "ours 100": (41.0,)}
    table = write_table(rows=rows, folds=[0, 1], reference="")
    for cell in table.cells():
        values, fold = ap[cell.row], cell.repeat.fold or 0
        if fold < len(values):
            leave_run(tmp_path / cell.name, {"teacher": values[fold], "student": values[fold]})
            identity = Identity.of(cell.cfg)
            file_result(cell, identity, tmp_path / cell.name, tmp_path / "results", "training")
    text = as_markdown(table, report_rows(table, read_results(tmp_path / "results")))
    assert re.search(r"\| ours 10 +\| 10 +\| 20 \(n 1\) +\| 20 \(n 1\) +\|", text)
    # Halfway from 40 to 42, in the logarithm of 40 to 100.
    assert re.search(r"\| ours 100 +\| 100 +\| 63 +\| 63 +\|", text)


def test_curves_across_machines_are_marked_and_named(
    write_table: WriteTable, tmp_path: Path
) -> None:
    table, found = two_curves(write_table, tmp_path)
    text = as_markdown(table, compared(table, found))
    assert re.search(r"\| ours 10 +\| 10 +\| 20 +\| 20 +\|", text)
    assert "machine" not in text
    gpu = {"machine": {"device": "cuda", "gpu": "GPU X"}}
    for cell, change, named in (
        ("ours 10 (fold 1)", gpu, "GPU X, PyTorch 2, float32"),
        ("base 40 (fold 0)", {"precision": "bfloat16 autocast"}, "CPU, PyTorch 2, bfloat16 autoc"),
    ):
        result = found[cell]
        other = replace(result, origin={**result.origin, **change})
        rows = compared(table, {**found, cell: other})
        text = as_markdown(table, rows)
        assert re.search(r"\| ours 10 +\| 10 +\| 20† +\| 20† +\|", text)
        assert "machines,** by device, PyTorch and number format, have run the points" in text
        assert re.search(rf"them\. {named}[a-z]*: {re.escape(cell)}\. CPU, PyTorch 2, floa", text)
        assert "float32: all others.\n" in text
    # What is not read is not marked: here the second draw.
    known = {**found, "ours 10 (fold 1)": replace(found["ours 10 (fold 1)"], origin=gpu)}
    del known["base 40 (fold 1)"]
    rows = compared(table, known)
    assert worth_text(rows, rows[2], "teacher", unit=" %") == "20 % (n 1)"


def test_curves_on_other_test_images_are_not_compared(
    write_table: WriteTable, tmp_path: Path
) -> None:
    table, found = two_curves(write_table, tmp_path)
    moved = {
        name: replace(result, identity=replace(result.identity, data={"test": "u"}))
        for name, result in found.items()
        if name in ("ours 10 (fold 1)", "beside (fold 0)")
    }
    text = as_markdown(table, compared(table, {**found, **moved}))
    assert re.search(r"\| ours 10 +\| 10 +\| - +\| - +\|", text)
    said = "**Not compared,** as the curve *base* is measured on other test images: "
    assert f"{said}ours 10 (fold 1).\n" in text


def two_curves(write_table: WriteTable, folder: Path) -> tuple[Table, dict[str, Result]]:
    """A table without reference, and results of all its runs: ours at 10 is worth 20."""
    ap = {"base 10": (30.0, 20.0), "base 40": (40.0, 30.0), "ours 10": (35.0, 25.0)}
    rows = {
        name: {
            "curve": name.split()[0],
            "x": int(name.split()[1]),
            "set": {"SOLVER.MAX_ITER": len(ap) + place},
        }
        for place, name in enumerate(ap)
    }
    table = write_table(rows={**rows, "beside": {}}, folds=[0, 1], reference="")
    for cell in table.cells():
        value = ap.get(cell.row, (1.0, 1.0))[cell.repeat.fold or 0]
        leave_run(folder / cell.name, {"teacher": value, "student": value})
        identity = Identity.of(cell.cfg, {"test": "t"})
        file_result(cell, identity, folder / cell.name, folder / "results", "training")
    return table, find_results(read_results(folder / "results"), table.cells())


def compared(table: Table, found: dict[str, Result]) -> list[RowReport]:
    return compare_rows(table, table.cells(), found)
