"""The tool, with a run that is a model by chance and trainings of two iterations."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.runs.detector import entry_for_weights
from tests.factories import tiny_model
from tests.tables.conftest import leave_run
from tests.tiny_dataset import TinyDataset, tiny_run, write_tiny_dataset
from tests.tools.conftest import Ended

NEXT = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)", "TEST.EVAL_PERIOD", "0"]


class HereStarter:
    """Runs programs in this process, and notes which."""

    started: list[str]
    failing = ""

    def __init__(self, program: Path, threads: int) -> None:
        self._name = program.stem

    def __call__(self, words: list[str], folder: Path) -> Ended:
        self.started.append(self._name)
        if self._name == self.failing:
            (folder / "console.txt").write_text("its last words")
            return Ended(1)
        module = self._name if self._name == "train_net" else f"tools.{self._name}"
        return Ended(importlib.import_module(module).run(words))


@pytest.fixture
def data(tmp_path: Path) -> TinyDataset:
    return write_tiny_dataset(tmp_path / "data")


@pytest.fixture
def words(data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line but for keys, where programs are run in this process."""
    HereStarter.started = []
    monkeypatch.setattr("dre_ssod.tables.processes.LocalStarter", HereStarter)
    folder = tmp_path / "fold 0"
    folder.mkdir()
    cfg = tiny_run(data, folder)
    cfg.DATASETS.TEST = (write_tiny_dataset(tmp_path / "test").labeled,)
    categories = [{"id": n + 1, "name": f"class{n}"} for n in range(3)]
    built = cfg.clone()
    built.MODEL.ROI_HEADS.NUM_CLASSES = 3
    content = {
        "model": tiny_model(built, spread=0.5).state_dict(),
        "run": entry_for_weights(built, categories),
    }
    torch.save(content, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return f"--run|{folder}|--images|2|--output|{tmp_path}/out".split("|")


def test_each_way_gets_the_truth_of_what_it_chose_and_no_more(
    tool: ModuleType,
    data: TinyDataset,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Interrupted before the first training.
    monkeypatch.setattr(HereStarter, "failing", "train_net")
    assert tool.run([*words, *NEXT]) == 2
    assert "before run failed" in capsys.readouterr().err
    monkeypatch.setattr(HereStarter, "failing", "")
    HereStarter.started.clear()
    assert tool.run([*words, *NEXT]) == 0
    assert HereStarter.started == ["pseudo_label", "train_net", "train_net", "train_net"]
    folder = tmp_path / "out" / "fold 0"
    pool = json.loads((folder / "pool.json").read_text())
    assert (len(pool["images"]), pool["annotations"]) == (4, [])
    truth = {record["file_name"]: record for record in load_one_labeled(data.labeled)}
    old = f"coco://{folder}/random/old.json?images={data.root}/train".replace(" ", "%20")
    labeled = {record["file_name"] for record in load_one_labeled(old)}
    for way in ("random", "views"):
        joined = load_one_labeled(old.replace("random/old", f"{way}/labels"))
        assert len(joined) == len(labeled) + 2
        for record in joined:
            own, known = record["annotations"], truth[record["file_name"]]["annotations"]
            assert [(a["category_id"], a["bbox"]) for a in own] == [
                (a["category_id"], a["bbox"]) for a in known
            ]
        started = json.loads((folder / way / "next" / "run.json").read_text())["runs"][0]
        sizes = [(row["role"], row["images"]) for row in started["datasets"]]
        # Of the four images of the pool two are left, beside those that nobody knows.
        assert sizes == [("labeled", 6), ("unlabeled", 2), ("unlabeled", 4), ("test", 8)]
    capsys.readouterr()
    # Nothing is left to train: what the runs have left is reported.
    figures = {"before": 20.0, "random/next": 30.0, "views/next": 34.5}
    for name, figure in figures.items():
        leave_run(folder / name, {"teacher": figure})
    HereStarter.started.clear()
    assert tool.run([*words, *NEXT]) == 0
    assert HereStarter.started == ["pseudo_label"]
    table = (tmp_path / "out" / "choices.md").read_text()
    assert table in capsys.readouterr().out
    assert table.startswith("AP in percent of the teacher, before and after 2 more images ")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[-3:]]
    assert rows == [
        ["before", "-", "20.0", "20.0", "-10.0, n 1"],
        ["random", "6.0", "30.0", "30.0", "-"],
        ["views", "6.0", "34.5", "34.5", "+4.5, n 1"],
    ]
    found = json.loads((tmp_path / "out" / "choices.json").read_text())
    assert found["boxes"] == {"fold 0": {"random": 6, "views": 6}}
    assert found["ap"]["views"] == {"fold 0": 34.5}
    # With several test sets it is of the first, which is said.
    for name, figure in figures.items():
        leave_run(folder / name, {"teacher": figure}, sets=("a", "b"))
    assert tool.run([*words, *NEXT]) == 0
    told = (tmp_path / "out" / "choices.md").read_text()
    assert told == table.replace("teacher, before", "teacher, of the first test set, a, before")
    # Other settings are other results.
    assert tool.run([*words, *NEXT, "SOLVER.BASE_LR", "0.1"]) == 2
    assert "holds results of other settings: opts." in _said(capsys)


def test_a_name_stands_for_one_model(
    tool: ModuleType, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results go by the name of a run's folder, which another run can have."""
    tool.take_up(tool.parse_arguments(words))
    shutil.copytree(tmp_path / "fold 0", tmp_path / "moved" / "fold 0")
    shutil.copytree(tmp_path / "fold 0", tmp_path / "fold 1")
    same = ["--run", str(tmp_path / "moved" / "fold 0"), *words[2:]]
    tool.take_up(tool.parse_arguments([*same, "--run", str(tmp_path / "fold 1")]))
    for name in ("moved/fold 0", "fold 1"):
        file = tmp_path / name / "model_final.pth"
        content = torch.load(file, weights_only=True)
        torch.save({**content, "iteration": 9}, file)
        assert tool.run(["--run", str(tmp_path / name), *words[2:], "--by", "random"]) == 2
        said = _said(capsys)
        assert f"holds results of {Path(name).name!r} from {tmp_path}/" in said
        assert f"--run {tmp_path / name} has another" in said


def test_ways_must_choose_as_many(
    tool: ModuleType,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tool.run([*words, "--images", "4"]) == 2
    assert "4 unlabeled images are known: too few to choose --images 4" in _said(capsys)
    monkeypatch.setattr(HereStarter, "__call__", _list_one)
    assert tool.run([*words, "--output", words[-1] + "2", "--by", "entropy"]) == 2
    assert "is unsure of 1 images, by entropy: lower --images 2" in _said(capsys)


def _list_one(self: HereStarter, words: list[str], folder: Path) -> Ended:
    (folder / "labeling").mkdir()
    (folder / "labeling" / "label_next.txt").write_text("one.png\n")
    return Ended(0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--images", "0"], "--images: 0 is less than 1"),
        (["--run", "x/run", "--run", "y/run"], "two --run have folders of one name"),
    ],
)
def test_options_that_cannot_be_are_refused(
    tool: ModuleType, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool.run(["--run", "a", "--output", "b", *more])
    assert said in capsys.readouterr().err


def test_a_program_that_fails_is_named_and_a_folder_of_others_left(
    tool: ModuleType,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tool.run([*words, "SOLVER.MAX_ITR", "3"]) == 2
    assert "there is no config key 'SOLVER.MAX_ITR'" in _said(capsys)
    assert not (tmp_path / "out").exists()
    assert tool.run([*words, "--output", str(tmp_path)]) == 2
    assert "is not empty: choose another --output" in _said(capsys)
    monkeypatch.setattr(HereStarter, "failing", "merge_labels")
    assert tool.run(words) == 2
    said = _said(capsys)
    assert "tools/merge_labels.py failed, see" in said
    assert "its last words" in said


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())
