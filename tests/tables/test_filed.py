"""Results that are kept, and what a table says about them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dre_ssod.tables.definition import Cell, Table
from dre_ssod.tables.filed import (
    ResultError,
    file_result,
    find_result,
    find_results,
    measure_cost,
    read_results,
)
from dre_ssod.tables.identity import Identity
from dre_ssod.tables.markdown import as_markdown
from dre_ssod.tables.plan import identify
from dre_ssod.tables.plot import draw_rows
from dre_ssod.tables.report import RowReport, as_data, report_rows
from dre_ssod.tables.running import write_report
from tests.tables.conftest import WriteTable, leave_run

AP = {"plain": (40.0, 42.0, 50.0), "DRE": (41.0, 44.0, 50.0), "all": (45.0,)}


def file_all(table: Table, tmp_path: Path, runs: int = 3) -> None:
    for cell in table.cells():
        fold = cell.repeat.fold or 0
        if fold < runs:
            value = AP[cell.row][fold]
            folder = tmp_path / cell.name
            leave_run(folder, {"teacher": value, "student": value - 1.0})
            identity = identify([cell], lambda cfg: {"test": "t"})[cell.name]
            file_result(cell, identity, folder, tmp_path / "results", "training")


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


def test_what_trained_a_model_is_known_where_another_run_evaluates_it(
    write_table: WriteTable, tmp_path: Path
) -> None:
    """Evaluations are in float32, whatever the model was trained in."""
    trained, evaluated = (tmp_path / name for name in ("trained", "evaluated"))
    leave_run(trained, {"teacher": 4.0}, machine={"device": "cuda", "gpu": "X"}, precision="half")
    leave_run(evaluated, {"teacher": 5.0}, "evaluation", weights=trained / "model_final.pth")
    cell = write_table().cells()[0]
    file_result(cell, Identity.of(cell.cfg), evaluated, tmp_path / "results", "evaluation")
    [result] = read_results(tmp_path / "results")
    assert result.figure("teacher", "AP") == 5.0
    assert result.machine == ("X", "2", "half")
    (trained / "run.json").unlink()
    with pytest.raises(ResultError, match=r"trained/run\.json names no training"):
        file_result(cell, Identity.of(cell.cfg), evaluated, tmp_path / "results", "evaluation")


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


def test_a_result_that_is_no_number_is_refused(write_table: WriteTable, tmp_path: Path) -> None:
    file_all(write_table(), tmp_path)
    path = sorted((tmp_path / "results").glob("*.json"))[0]
    path.write_text(path.read_text().replace("50.0", "NaN", 1))
    with pytest.raises(ResultError, match=f"{path.name} is no result .*NaN is no number"):
        read_results(tmp_path / "results")


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


def test_results_are_found_by_what_the_sets_hold_where_somebody_has_looked(
    write_table: WriteTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def named(place: str) -> list[Cell]:
        return write_table(set={"DATASETS.TEST": [f"voc://{place}"]}).cells()

    for cell in named("old"):
        leave_run(tmp_path / cell.name, {"teacher": 1.0})
        identity = Identity.of(cell.cfg, {"test": "t"})
        file_result(cell, identity, tmp_path / cell.name, tmp_path / "results", "training")
    kept, cells = read_results(tmp_path / "results"), named("new")
    looked = identify(cells, lambda cfg: {"test": "t"})
    with caplog.at_level("WARNING", logger="dre_ssod"):
        assert find_results(kept, cells, looked).keys() == looked.keys()
        assert caplog.text == ""
        # By their names there are none, which is told.
        assert find_results(kept, cells) == {}
    assert "of sets of other names (by key of DATASETS): plain (fold 0) (TEST), DRE" in caplog.text
    assert "run these rows without --report" in caplog.text
    # Of cells that were looked at, what is there counts, whatever the newest results are of.
    caplog.clear()
    changed = identify(cells, lambda cfg: {"test": "u"}).values()
    newer = [
        replace(result, identity=identity, origin={**result.origin, "finished": "2099-01-01"})
        for result, identity in zip(kept, changed, strict=True)
    ]
    part = {name: identity for name, identity in looked.items() if name.startswith("DRE")}
    with caplog.at_level("WARNING", logger="dre_ssod"):
        assert find_results([*kept, *newer], cells, part).keys() == part.keys()
    assert "not counted: plain (fold 0), plain (fold 1), plain (fold 2). Run" in caplog.text


def test_changed_settings_find_no_old_result(write_table: WriteTable, tmp_path: Path) -> None:
    file_all(write_table(), tmp_path)
    results = read_results(tmp_path / "results")
    assert find_results(results, write_table(set={"SOLVER.MAX_ITER": 7}).cells()) == {}
    # Other data under the same names.
    moved = identify(write_table().cells(), lambda cfg: {"test": "other"})
    assert all(find_result(results, i) is None for i in moved.values())


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


def test_a_run_without_an_end_has_no_result(write_table: WriteTable, tmp_path: Path) -> None:
    cell = write_table().cells()[0]
    identity = Identity.of(cell.cfg)
    with pytest.raises(ResultError, match=r"results.json names no training"):
        file_result(cell, identity, tmp_path, tmp_path / "results", "training")
    leave_run(tmp_path, {"teacher": 1.0}, kind="evaluation")
    with pytest.raises(ResultError, match="names no training"):
        file_result(cell, identity, tmp_path, tmp_path / "results", "training")
    # Nor has one whose files are of something else.
    leave_run(tmp_path, {"teacher": 1.0})
    (tmp_path / "cost.json").write_text('{"lives": [{}]}')
    with pytest.raises(ResultError, match=r"cost\.json does not say what the run took"):
        file_result(cell, identity, tmp_path, tmp_path / "results", "training")
    (tmp_path / "run.json").write_text('{"runs": [{"kind": "training"}]}')
    with pytest.raises(ResultError, match=r"run\.json names no training with its precision"):
        file_result(cell, identity, tmp_path, tmp_path / "results", "training")
    assert read_results(tmp_path / "results") == []


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ResultError, match=r"a\.json is no result of a run"):
        read_results(tmp_path)


def test_cost_is_of_steps_after_the_burn_in_and_of_all_lives(tmp_path: Path) -> None:
    assert set(measure_cost(tmp_path, 40).values()) == {None}
    # The line of iteration 59 is the median of 40 to 59 and still has some of the burn-in.
    lines = [(19, 1.0), (39, 1.0), (59, 1.5), (79, 2.0), (99, 3.0)]
    (tmp_path / "metrics.json").write_text(
        "".join(json.dumps({"iteration": i, "time": t}) + "\n" for i, t in lines)
    )
    lives = [{"cpu_seconds": 10.0, "peak_mib": 5.0, "peak_gpu_mib": 3.0}]
    lives += [{"cpu_seconds": 4.0, "peak_mib": 7.0, "peak_gpu_mib": 2.0}]
    (tmp_path / "cost.json").write_text(json.dumps({"lives": lives}))
    assert measure_cost(tmp_path, 40) == {
        "step_seconds": 2.5,
        "cpu_seconds": 14.0,
        "peak_mib": 7.0,
        "peak_gpu_mib": 3.0,
    }
