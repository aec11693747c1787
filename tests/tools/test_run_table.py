"""A table from its file to its report, with runs that nobody trains."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.tables.conftest import leave_run
from tests.tiny_dataset import tiny_run, write_tiny_dataset
from tests.tools.conftest import Ended

AP = {"first": 30.0, "second": 34.0}


class Starter:
    """Runs that end as soon as they start."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.failing = ""
        self.leaving_nothing = ""

    def __call__(self, words: list[str], folder: Path) -> Ended:
        self.started.append(folder.name.rpartition("-")[0])
        config = yaml.safe_load((folder / "table_config.yaml").read_text())
        assert config["OUTPUT_DIR"] == str(folder)
        name = "first" if folder.name.startswith("first") else "second"
        if name == self.failing:
            (folder / "console.txt").write_text("its last words")
            return Ended(1)
        if name == self.leaving_nothing:
            return Ended(0)
        leave_run(folder, {"teacher": AP[name] + config["SEED"], "student": 1.0})
        return Ended(0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    data = write_tiny_dataset(tmp_path / "data")
    (tmp_path / "base.yaml").write_text(tiny_run(data, tmp_path).dump())
    rows = {"first": {}, "second": {"set": {"SOLVER.BASE_LR": 0.002}}}
    content = {"config": "base.yaml", "seeds": [1, 2], "reference": "first", "rows": rows}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Starter:
    """What starts the runs of the tool."""
    own = Starter()
    monkeypatch.setattr("dre_ssod.tables.processes.LocalStarter", lambda *args: own)
    return own


def test_a_table_runs_what_is_missing_and_reports(
    tool: ModuleType,
    table: Path,
    tmp_path: Path,
    starter: Starter,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    words = [str(table), "--output", str(output)]
    # A part of it.
    assert tool.run([*words, "--row", "first", "--run", "seed 1"]) == 0
    assert starter.started == ["first_seed_1"]
    assert "**Missing:** first (seed 2); second (seed 1, seed 2)." in capsys.readouterr().out
    # A failure does not end the others, and is told.
    starter.failing = "second"
    assert tool.run(words) == 2
    assert starter.started[1:] == ["second_seed_1", "first_seed_2", "second_seed_2"]
    assert "2 run(s) failed, the same command tries again" in capsys.readouterr().err
    starter.failing = ""
    assert tool.run(words) == 0
    assert starter.started[4:] == ["second_seed_1", "second_seed_2"]
    shown = capsys.readouterr().out
    assert "2 of 4 results are there." in shown
    assert "| second | 2   | 35.5 ± 0.7 |" in shown
    assert "+4.0 [+4.0, +4.0], n 2" in shown
    # Nothing is left to do.
    assert tool.run(words) == 0
    assert len(starter.started) == 6
    assert len(list((output / "results").glob("*.json"))) == 4
    assert json.loads((output / "mine.json").read_text())["reference"] == "first"
    assert (output / "mine.md").read_text() in shown
    assert (output / "mine.png").read_bytes()[1:4] == b"PNG"
    # Other settings are other runs.
    assert tool.run([*words, "--run", "seed 1", "--row", "first", "SOLVER.BASE_LR", "0.003"]) == 0
    assert len(starter.started) == 7
    # Without running anything.
    capsys.readouterr()
    assert tool.run([*words, "--report"]) == 0
    assert capsys.readouterr().out == (output / "mine.md").read_text() + "\n"
    assert tool.run([*words, "--report", "--reference", "second"]) == 0
    assert "Differences are to *second*" in capsys.readouterr().out
    assert "-4.0 [-4.0, -4.0], n 2" in (output / "mine.md").read_text()
    assert len(starter.started) == 7


def test_a_row_without_a_test_set_is_refused_before_anything_runs(
    tool: ModuleType,
    table: Path,
    tmp_path: Path,
    starter: Starter,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = yaml.safe_load(table.read_text())
    content["rows"]["second"]["set"]["DATASETS.TEST"] = []
    table.write_text(yaml.safe_dump(content, sort_keys=False))
    words = [str(table), "--output", str(tmp_path / "out")]
    assert tool.run(words) == 2
    assert "DATASETS.TEST is () in 'second': a table tells" in capsys.readouterr().err
    assert starter.started == []
    assert tool.run([*words, "--row", "first", "--run", "seed 1"]) == 0
    assert starter.started == ["first_seed_1"]


def test_a_run_without_a_result_does_not_stop_the_others(
    tool: ModuleType,
    table: Path,
    tmp_path: Path,
    starter: Starter,
    capsys: pytest.CaptureFixture[str],
) -> None:
    starter.leaving_nothing = "first"
    assert tool.run([str(table), "--output", str(tmp_path / "out")]) == 2
    assert len(starter.started) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "2 run(s) failed" in said
    assert "first (seed 1): " in said
    assert "results.json names no training" in said
    assert len(list((tmp_path / "out" / "results").glob("*.json"))) == 2


def test_data_that_were_moved_have_their_results(
    tool: ModuleType,
    table: Path,
    tmp_path: Path,
    starter: Starter,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = [str(table), "--output", str(tmp_path / "out")]
    assert tool.run(words) == 0
    (tmp_path / "data").rename(tmp_path / "moved")
    base = tmp_path / "base.yaml"
    base.write_text(base.read_text().replace(str(tmp_path / "data"), str(tmp_path / "moved")))
    capsys.readouterr()
    assert tool.run(words) == 0
    assert len(starter.started) == 4
    told = capsys.readouterr().out
    assert "4 of 4 results are there." in told
    assert "Missing" not in told
    # Nobody looks at the data.
    with caplog.at_level("WARNING", logger="dre_ssod"):
        assert tool.run([*words, "--report"]) == 0
    assert "**Missing:** first" in capsys.readouterr().out
    assert "first (seed 1) (TEST, TRAIN, UNLABELED), second (seed 1)" in caplog.text


@pytest.mark.parametrize("option", ["--row", "--reference"])
def test_names_that_the_table_lacks_are_refused(
    option: str, tool: ModuleType, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.run([str(table), option, "third"]) == 2
    assert f"{option} 'third': the table has first, second" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at-once", "0"], "--at-once: 0 is less than 1"),
        (["--slurm", "partition"], "--slurm is 'partition'; it must be KEY=VALUE"),
        (["--report", "--row", "a", "--run", "b"], "it does not go with --row, --run"),
        (["--report", "--slurm", ""], "it does not go with --slurm"),
    ],
)
def test_options_that_cannot_be_are_refused(
    tool: ModuleType, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool.parse_arguments(["t.yaml", *words])
    assert said in capsys.readouterr().err


def test_slurm_and_keys_have_their_place(tool: ModuleType) -> None:
    args = tool.parse_arguments(["t.yaml", "--at-once", "2", "SEED", "3"])
    assert (args.opts, args.slurm) == (["SEED", "3"], None)
    args = tool.parse_arguments(["t.yaml", "--slurm", "slurm_partition=gpu,gpus_per_node=1"])
    assert args.slurm == {"slurm_partition": "gpu", "gpus_per_node": 1}
    assert tool.parse_arguments(["t.yaml", "--slurm", ""]).slurm == {}
