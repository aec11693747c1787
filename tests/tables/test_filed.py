"""Results that are kept, and how a table finds them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from dre_ssod.runs.resuming import default_settings
from dre_ssod.tables.definition import Cell
from dre_ssod.tables.filed import (
    ResultError,
    file_result,
    find_result,
    find_results,
    measure_cost,
    read_results,
)
from dre_ssod.tables.identity import Identity
from dre_ssod.tables.plan import identify
from tests.tables.conftest import WriteTable, file_all, leave_run


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


def test_a_result_that_is_no_number_is_refused(write_table: WriteTable, tmp_path: Path) -> None:
    file_all(write_table(), tmp_path)
    path = sorted((tmp_path / "results").glob("*.json"))[0]
    path.write_text(path.read_text().replace("50.0", "NaN", 1))
    with pytest.raises(ResultError, match=f"{path.name} is no result .*NaN is no number"):
        read_results(tmp_path / "results")


def test_results_are_found_by_what_the_sets_hold_where_somebody_has_looked(
    write_table: WriteTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def named(place: str) -> list[Cell]:
        return write_table(set={"DATASETS.TEST": [f"voc://{place}"]}).cells()

    def held(cfg: CfgNode, test: str = "t") -> dict[str, str]:
        return {"labeled": str(cfg.DATASETS.LABELED_FOLD), "test": test}

    for cell in named("old"):
        leave_run(tmp_path / cell.name, {"teacher": 1.0})
        identity = Identity.of(cell.cfg, held(cell.cfg))
        file_result(cell, identity, tmp_path / cell.name, tmp_path / "results", "training")
    kept, cells = read_results(tmp_path / "results"), named("new")
    looked = identify(cells, held)
    with caplog.at_level("WARNING", logger="dre_ssod"):
        assert find_results(kept, cells, looked).keys() == looked.keys()
        assert caplog.text == ""
        # By their names there are none, which is told.
        assert find_results(kept, cells) == {}
    assert "of sets of other names (by key of DATASETS): plain (fold 0) (TEST), DRE" in caplog.text
    assert "run these rows without --report" in caplog.text
    # Of cells that were looked at, what is there counts, whatever the newest results are of.
    caplog.clear()
    changed = identify(cells, lambda cfg: held(cfg, "u")).values()
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


def test_a_result_by_an_older_default_is_kept_beside_that_by_the_new_one(
    write_table: WriteTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cell, *_] = write_table().cells()
    leave_run(tmp_path / "run", {"teacher": 1.0})
    for value in (0.7, 0.9, 0.9):
        cfg = cell.cfg.clone()
        cfg.SSOD.SCORE_THRESHOLD = value
        defaults = {**default_settings(), "SSOD.SCORE_THRESHOLD": value}
        monkeypatch.setattr("dre_ssod.tables.identity.default_settings", lambda own=defaults: own)
        identity = Identity.of(cfg, {"test": "t"})
        file_result(cell, identity, tmp_path / "run", tmp_path / "results", "training")
    names = [path.stem for path in sorted((tmp_path / "results").iterdir())]
    assert names == [f"plain-fold_0-{identity.digest}", f"plain-fold_0-{identity.digest}_2"]
    kept = read_results(tmp_path / "results")
    assert [result.identity.settings["SSOD.SCORE_THRESHOLD"] for result in kept] == [0.7, 0.9]


def test_a_start_that_trains_nothing_has_not_trained_the_model(
    write_table: WriteTable, tmp_path: Path
) -> None:
    [cell, *_] = write_table().cells()
    leave_run(tmp_path, {"teacher": 1.0}, machine={"device": "cuda", "gpu": "X"})
    [start] = json.loads((tmp_path / "run.json").read_text())["runs"]
    after = {**start, "first_iteration": cell.cfg.SOLVER.MAX_ITER, "machine": {"device": "cpu"}}
    (tmp_path / "run.json").write_text(json.dumps({"runs": [start, after]}))
    file_result(cell, Identity.of(cell.cfg), tmp_path, tmp_path / "results", "training")
    [result] = read_results(tmp_path / "results")
    assert result.device == "X"


def test_two_draws_of_the_same_images_are_one_run(
    write_table: WriteTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells = write_table().cells()
    looked = identify(cells, lambda cfg: {"labeled": str(cfg.DATASETS.LABELED_FOLD > 1)})
    for cell in cells:
        leave_run(tmp_path / cell.name, {"teacher": 1.0})
        results = tmp_path / "results"
        file_result(cell, looked[cell.name], tmp_path / cell.name, results, "training")
    found = find_results(read_results(tmp_path / "results"), cells, looked)
    assert list(found) == [f"{row} (fold {fold})" for fold in (0, 2) for row in ("plain", "DRE")]
    assert "DRE (fold 1) has the labeled images of DRE (fold 0), and so is the" in caplog.text


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
