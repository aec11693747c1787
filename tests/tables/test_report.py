"""What a table says about the results that are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dre_ssod.tables.filed import (
    file_result,
    find_results,
    read_results,
)
from dre_ssod.tables.identity import Identity
from dre_ssod.tables.markdown import as_markdown
from dre_ssod.tables.plot import draw_rows
from dre_ssod.tables.report import RowReport, as_data, report_rows
from dre_ssod.tables.running import write_report
from tests.tables.conftest import AP, WriteTable, file_all, leave_run


def test_a_table_tells_means_spread_and_paired_differences(
    write_table: WriteTable, tmp_path: Path
) -> None:
    file_all(write_table(), tmp_path)
    table = write_table()
    kept = read_results(tmp_path / "results")
    rows = report_rows(table, kept)
    text = as_markdown(table, rows)
    # Differences 1, 2, 0: mean 1, deviation 1, half width 4.303 / sqrt(3) = 2.5.
    assert "| DRE   | 3   | 45.0 ± 4.6 | 55.0 ± 4.6 | 35.0 ± 4.6 | +1.0 [-1.5, +3.5], n 3 |" in text
    assert "| plain | 3   | 44.0 ± 5.3 |" in text
    assert "| cat     | 50.0 / 50.0 | 50.0 / 50.0 |" in text
    assert "dog" not in text
    assert "Missing" not in text
    assert "0123456789." in text
    data = as_data(table, rows)
    student = data["rows"][1]["figures"]["student"]["AP"]
    assert student["runs"] == {"fold 0": 40.0, "fold 1": 43.0, "fold 2": 49.0}
    assert student["difference"]["half_width"] == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert json.loads(json.dumps(data)) == data
    axes = draw_rows(table.title, rows).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain", "DRE"]
    drawn = {tuple(line.get_xdata()) for line in axes.lines}
    assert {AP["plain"], AP["DRE"], (40.0, 43.0, 49.0)} <= drawn


def test_runs_of_another_machine_are_named(write_table: WriteTable, tmp_path: Path) -> None:
    table = write_table()
    for cell in table.cells():
        of_gpu = cell.name == "DRE (fold 1)"
        machine = {"device": "cuda", "gpu": "GPU X"} if of_gpu else {"device": "cpu"}
        leave_run(tmp_path / cell.name, {"teacher": 4.0, "student": 4.0}, machine=machine)
        identity = Identity.of(cell.cfg)
        file_result(cell, identity, tmp_path / cell.name, tmp_path / "results", "training")
    kept = read_results(tmp_path / "results")
    rows = report_rows(table, kept)
    assert [row.apart for row in rows] == [[], ["fold 1"]]
    said = "by device, PyTorch and number format, than the run of *plain* had: DRE (fold 1)."
    assert said in as_markdown(table, rows)
    first, *others = kept
    newer = replace(first, origin={**first.origin, "versions": {"torch": "2.11.0+cu"}})
    assert newer.machine == ("CPU", "2.11", "float32")
    shorter = replace(first, origin={**first.origin, "precision": "bfloat16 autocast"})
    assert shorter.machine == ("CPU", "2", "bfloat16 autocast")
    for changed in (newer, shorter):
        assert sum(len(row.apart) for row in report_rows(table, [changed, *others])) == 2
    unknown = replace(first, origin={k: v for k, v in first.origin.items() if k != "precision"})
    assert unknown.machine[2] == "unknown"


def test_figures_of_the_first_of_several_test_sets_say_so(
    write_table: WriteTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(folds=[0])
    texts, titles = [], []

    def draw(title: str, rows: Sequence[RowReport]) -> Figure:
        titles.append(title)
        return draw_rows(title, rows)

    monkeypatch.setattr("dre_ssod.tables.running.draw_rows", draw)
    for sets in (["a", "b"], ["a"]):
        for cell in table.cells():
            leave_run(tmp_path / cell.name, {"teacher": 40.0, "student": 40.0}, sets=sets)
            identity = Identity.of(cell.cfg)
            file_result(cell, identity, tmp_path / cell.name, tmp_path / "results", "training")
        texts.append(write_report(table, tmp_path / "results", tmp_path))
    several, alone = texts
    assert titles == ["Two rows, of the first test set, a", "Two rows"]
    assert "\n\nAP in percent, of the first test set, a. 1 run(s) of each row" in several
    assert several.replace(", of the first test set, a", "") == alone


def test_a_table_says_why_a_row_has_fewer_runs(write_table: WriteTable, tmp_path: Path) -> None:
    everything = {"set": {"DATASETS.LABELED_PERCENT": 100.0}}
    table = write_table(rows={"plain": {}, "all": everything})
    file_all(table, tmp_path)
    kept = read_results(tmp_path / "results")
    text = as_markdown(table, report_rows(table, kept))
    assert "fold 2. Once, with all images labeled: all. Mean" in text
    assert re.search(r"\| all +\| 1 +\| 45.0 +\|", text)
    assert "Missing" not in text


def test_a_table_says_which_runs_are_missing(write_table: WriteTable, tmp_path: Path) -> None:
    table = write_table()
    none = as_markdown(table, report_rows(table, []))
    assert "**Missing:** plain (fold 0, fold 1, fold 2); DRE (fold 0, fold 1, fold 2)." in none
    assert "Teacher" not in none
    file_all(write_table(), tmp_path, runs=1)
    kept = read_results(tmp_path / "results")
    text = as_markdown(table, report_rows(table, kept))
    assert "**Missing:** plain (fold 1, fold 2); DRE (fold 1, fold 2)." in text
    # One run has neither spread nor interval.
    assert "| DRE   | 1   | 41.0 | 51.0   | 31.0   | +1.0, n 1" in text
    assert len(draw_rows(table.title, report_rows(table, [])).axes[0].lines) == 2


def test_costs_of_two_devices_are_not_averaged(write_table: WriteTable, tmp_path: Path) -> None:
    table = write_table(rows={"plain": {}}, folds=[0, 1, 2])
    places = [({"device": "cpu"}, 2.0), ({"device": "cpu"}, 4.0)]
    places += [({"device": "cuda", "gpu": "GPU X"}, 0.5)]
    for cell, (machine, seconds) in zip(table.cells(), places, strict=True):
        folder = tmp_path / cell.name
        leave_run(folder, {"teacher": 40.0, "student": 40.0}, machine=machine)
        line = {"iteration": 30, "time": seconds, "total_loss": 1.0}
        (folder / "metrics.json").write_text(json.dumps(line) + "\n")
        gpu = 700.0 if "gpu" in machine else 0.0
        lives = [{"cpu_seconds": 360.0, "peak_mib": 1000.0, "peak_gpu_mib": gpu}]
        (folder / "cost.json").write_text(json.dumps({"lives": lives}))
        file_result(cell, Identity.of(cell.cfg), folder, tmp_path / "results", "training")
    kept = read_results(tmp_path / "results")
    text = as_markdown(table, report_rows(table, kept))
    titles = r"\| median seconds per step after the burn-in +\| CPU hours per run +"
    titles += r"\| peak memory of the process, MiB +\|"
    assert re.search(rf"{titles} peak allocated on the GPU, MiB +\|\n", text)
    assert re.search(r"\| plain +\| CPU +\| 3\.00 +\| 0\.10 +\| 1000 +\| - +\|", text)
    assert re.search(r"\| plain +\| GPU X +\| 0\.50 +\| 0\.10 +\| 1000 +\| 700 +\|", text)
    # Where nothing was allocated on one, or nobody knows.
    costs = [{k: v for k, v in r.cost.items() if k != "peak_gpu_mib"} for r in kept]
    kept = [replace(r, cost=cost) for r, cost in zip(kept, costs, strict=True)]
    assert re.search(rf"{titles}\n", as_markdown(table, report_rows(table, kept)))


def test_what_evaluates_the_model_of_another_run_has_no_part_in_costs(
    write_table: WriteTable, tmp_path: Path
) -> None:
    table = write_table(rows={"mixed": {}, "evaluated": {"set": {"SEED": 9}}}, reference="")
    for cell in table.cells():
        trained = cell.name == "mixed (fold 0)"
        kind = "training" if trained else "evaluation"
        folder = tmp_path / cell.name
        leave_run(folder, {"teacher": 40.0, "student": 40.0}, kind=kind)
        life = {"cpu_seconds": 3600.0 if trained else 36.0, "peak_mib": 1000.0 if trained else 10.0}
        life["peak_gpu_mib"] = 0.0
        (folder / "cost.json").write_text(json.dumps({"lives": [life]}))
        file_result(cell, Identity.of(cell.cfg), folder, tmp_path / "results", kind)
    kept = read_results(tmp_path / "results")
    mixed, evaluated = report_rows(table, kept)
    known = {"cpu_seconds": 3600.0, "peak_mib": 1000.0, "peak_gpu_mib": 0.0}
    assert mixed.costs == {"CPU": known}
    assert evaluated.costs == {}
    assert re.search(r"\| mixed +\| CPU +\| - +\| 1\.00 +\| 1000 ", as_markdown(table, [mixed]))
    assert "Cost" not in as_markdown(table, [evaluated])
    # Of results that do not say what they are of, those with steps are of trainings.
    origins = [{k: v for k, v in result.origin.items() if k != "kind"} for result in kept]
    before = [replace(r, origin=origin) for r, origin in zip(kept, origins, strict=True)]
    before = [
        replace(
            r, cost={**r.cost, "step_seconds": 2.0 if r.cost["cpu_seconds"] == 3600.0 else None}
        )
        for r in before
    ]
    mixed, evaluated = report_rows(table, before)
    assert mixed.costs["CPU"] == {"step_seconds": 2.0, **known}
    assert evaluated.costs == {}


def test_rows_on_other_test_images_are_not_subtracted(
    write_table: WriteTable, tmp_path: Path
) -> None:
    held = {"plain": "t", "moved": "t", "other": "u"}
    rows = {row: {"set": {"DATASETS.TEST": [f"voc://{row}"]}} for row in held}
    table = write_table(rows=rows)
    for cell in table.cells():
        leave_run(tmp_path / cell.name, {"teacher": 40.0 + len(cell.row), "student": 1.0})
        identity = Identity.of(cell.cfg, {"test": held[cell.row]})
        file_result(cell, identity, tmp_path / cell.name, tmp_path / "results", "training")
    kept = read_results(tmp_path / "results")
    reports = report_rows(table, kept)
    _, moved, other = (row.figures["teacher"]["AP"].difference for row in reports)
    assert moved is not None
    assert (moved.n, moved.mean) == (3, 0.0)
    assert other is None
    said = "**Not compared,** as *plain* is measured on other test images: other (fold 0, fold 1, "
    assert f"{said}fold 2)." in as_markdown(table, reports)
    # By their names, where nobody has looked.
    unseen = [replace(r, identity=replace(r.identity, data=None)) for r in kept]
    reports = report_rows(table, unseen)
    assert [len(row.unpaired) for row in reports] == [0, 3, 3]
    # Without a reference nothing is.
    text = as_markdown(table, report_rows(replace(table, reference=""), kept))
    assert "Not compared" not in text


def test_results_of_data_from_before_a_change_are_not_compared_with_those_of_after(
    write_table: WriteTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file_all(write_table(), tmp_path, runs=1)
    kept = read_results(tmp_path / "results")
    cells = write_table().cells()
    assert {name.partition(" (")[0] for name in find_results(kept, cells)} == {"plain", "DRE"}
    *others, last = kept
    changed = replace(last.identity, data={"test": "other"})
    newer = replace(last, identity=changed, origin={**last.origin, "finished": "2099-01-01"})
    with caplog.at_level("WARNING", logger="dre_ssod"):
        (name,) = find_results([*others, last, newer], cells)
    (stale,) = (row for row in ("plain (fold 0)", "DRE (fold 0)") if row != name)
    assert f"not counted: {stale}. Run them again." in caplog.text
