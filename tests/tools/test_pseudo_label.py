"""The tool, from a command line to its files; by one process and by two."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.launch import program
from dre_ssod.runs.detector import entry_for_weights
from dre_ssod.stores import StoreError
from tests.factories import BOXES, SIZE, draw, tiny_cfg, tiny_model
from tests.forks import fork_server
from tests.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All but --output, for five images in chunks of two."""
    root = tmp_path_factory.mktemp("run")
    cfg = tiny_cfg(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.2})
    run = entry_for_weights(cfg, [{"id": n, "name": name} for n, name in enumerate("abc", 1)])
    content = {"model": tiny_model(cfg, spread=0.5).state_dict(), "run": run}
    torch.save(content, root / "model_final.pth")
    (root / "images").mkdir()
    for number in range(5):
        pixels = draw(SIZE, BOXES, seed=number).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
    words = f"--run {root} --input {root}/images --chunk 2 --min-score 0.4"
    return [*words.split(), "TEST.DETECTIONS_PER_IMAGE", "20"]


def test_processes_of_which_one_is_killed_write_what_one_writes(
    tool: ModuleType,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each of those that are spawned would import everything.
    monkeypatch.setattr(program, "get_context", lambda method: fork_server())
    one, two = tmp_path / "one", tmp_path / "two"
    assert tool.run(["--output", str(one), *arguments]) == 0
    shown = capsys.readouterr().out
    assert "5 images, 3 chunks" in shown
    assert "process 0: 5 of 5 images" in shown
    content = json.loads((one / "pseudo_labels.json").read_text())
    assert len(content["images"]) == 5
    assert [c["name"] for c in content["categories"]] == ["a", "b", "c"]
    assert min(a["score"] for a in content["annotations"]) >= 0.4
    # The tool's own handler, which the first test of a process has set up, may print elsewhere.
    monkeypatch.setattr(logging.getLogger("dre_ssod"), "propagate", True)
    # An earlier test may have left a process that is about to end.
    before = {child.name for child in multiprocessing.active_children()}
    threading.Thread(target=_kill_the_third, args=(before,), daemon=True).start()
    assert tool.run(["--output", str(two), "--num-gpus", "3", *arguments]) == 0
    assert "Process 2 was ended by SIGKILL." in caplog.messages
    for name in ("pseudo_labels.json", "label_next.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def _kill_the_third(before: set[str]) -> None:
    started: list[BaseProcess] = []
    while len(started) < 3:
        time.sleep(0.01)
        started = [c for c in multiprocessing.active_children() if c.name not in before]
    max(started, key=lambda child: int(child.name.rpartition("-")[2])).kill()


@pytest.mark.parametrize(("options", "batch"), [([], 3), (["--batch", "2"], 2)])
def test_the_batch_is_that_of_evaluation_unless_given(
    tool: ModuleType, arguments: list[str], options: list[str], batch: int
) -> None:
    words = ["--output", "out", *options, *arguments, "TEST.IMS_PER_BATCH", "3"]
    job, _ = tool.configure(tool.parse_arguments(words))
    assert job.batch_images == batch


def test_labels_are_bounded_by_the_score_where_the_run_ranks_by_quality(
    tool: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Times a quality of at most 1, few detections reach tau; asked for, they have to."""
    trained = torch.load(Path(arguments[1]) / "model_final.pth", weights_only=True)
    trained["run"]["settings"]["TEST.RANK_BY_QUALITY"] = True
    torch.save(trained, tmp_path / "ranking.pth")
    ranking = ["--run", str(tmp_path / "ranking.pth"), *arguments[2:]]
    found = {}
    for name, words in (
        ("plain", arguments),
        ("ranking", ranking),
        ("asked for", [*ranking, "TEST.RANK_BY_QUALITY", "True"]),
    ):
        assert tool.run(["--output", str(tmp_path / name), *words]) == 0
        said = capsys.readouterr().out.count("TEST.RANK_BY_QUALITY is off here")
        assert said == (name == "ranking")
        content = json.loads((tmp_path / name / "pseudo_labels.json").read_text())
        found[name] = content["annotations"]
    assert found["plain"] == found["ranking"]
    assert len(found["asked for"]) < len(found["plain"])


def test_a_threshold_that_the_run_did_not_learn_by_is_told(
    tool: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = arguments.index("--min-score")
    bare = ["--output", str(tmp_path), *arguments[:where], *arguments[where + 2 :]]
    by_rank = ("SSOD.LABELS.RANK_SHARE", "0.5")
    for words, told in (
        (bare, 0),
        ([*bare, *by_rank], 1),
        (["--output", str(tmp_path), *arguments, *by_rank], 0),
    ):
        job, _ = tool.configure(tool.parse_arguments(words))
        said = "The run chose its labels by rank, not by SSOD.SCORE_THRESHOLD 0.8, which bounds"
        assert capsys.readouterr().out.count(said) == told
        assert job.min_score == (0.4 if "--min-score" in words else 0.8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-score", "0.1"], "--min-score is 0.1; it must lie between"),
        (["--label-next-score", "2"], "--label-next-score is 2.0"),
        (["--classes", "a,b"], "2 classes are named: a, b"),
        (["--input", "/missing/folder"], "there is no such folder"),
    ],
)
def test_rubbish_is_refused_in_words(
    tool: ModuleType,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    split = arguments.index("TEST.DETECTIONS_PER_IMAGE")
    words = [*arguments[:split], *options, *arguments[split:]]
    assert tool.run(["--output", str(tmp_path / "out"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(("option", "least"), [("--batch", 1), ("--label-next", 0)])
def test_numbers_have_a_least_value(
    tool: ModuleType, option: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        tool.parse_arguments(["--input", "a", "--output", "b", option, str(least - 1)])
    assert f"{option}: {least - 1} is less than {least}" in capsys.readouterr().err


def test_quality_needs_a_variance_branch(
    tool: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1"]
    plain += ["SSOD.LER.ENABLED", "False", "SSOD.PRC.ENABLED", "False"]
    assert tool.run(["--output", str(tmp_path / "out"), *arguments, *plain]) == 2
    assert "use --label-next-by entropy" in " ".join(capsys.readouterr().err.split())


def test_an_empty_list_says_why_and_names_the_tasks_of_an_earlier_one(
    tool: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output", str(tmp_path / "out"), "--tasks", "labelstudio"]
    assert tool.run([*words, *arguments]) == 0
    tasks = tmp_path / "out" / "tasks.json"
    shown = capsys.readouterr().out
    assert f"as tasks with boxes to correct: {tasks}" in shown
    assert f"a source storage of the type Local Files with the path {arguments[3]}." in shown
    assert tool.run([*words, "--exclude", f"folder://{arguments[3]}", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "0 images to label next" in shown
    assert "none is listed: 5 of 5 are of --exclude" in shown
    assert "--tasks labelstudio: no image is listed, so no tasks were written" in shown
    assert f"{tasks} is of an earlier list" in shown
    words += ["--label-next-score", "1", "--output", str(tmp_path / "other")]
    assert tool.run([*words, *arguments]) == 0
    shown = capsys.readouterr().out
    assert "0 of 5 are of --exclude, and the model is unsure of no other one" in shown
    assert "is of an earlier list" not in shown


def test_far_more_boxes_than_labels_are_doubted(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_tiny_dataset(tmp_path)
    cfg = tiny_cfg(**{"DATASETS.TRAIN": (data.labeled,)})
    # Three objects per image; twice as many are allowed.
    assert tool.doubt_of_many(cfg, 6.0, 0.8) is None
    doubt = tool.doubt_of_many(cfg, 6.1, 0.8)
    assert "6.1 per image, where DATASETS.TRAIN has 3.0. Raise --min-score, which is 0.8" in doubt
    cfg.SSOD.WARN_PSEUDO_BOX_RATIO = 0.0
    assert tool.doubt_of_many(cfg, 99.0, 0.8) is None
    gone = tiny_cfg(**{"DATASETS.TRAIN": ("coco:///gone.json?images=/gone",)})
    assert tool.doubt_of_many(gone, 99.0, 0.8) is None
    # All is labeled when this is asked: a store that does not answer then is no reason to fail.
    monkeypatch.setattr("dre_ssod.stores.objects.PAUSE", 0.0)
    store = "http://127.0.0.1:9"
    away = tiny_cfg(**{"DATASETS.TRAIN": (f"coco://{store}/train.json?images={store}/train",)})
    with pytest.raises(StoreError):
        load_one_labeled(away.DATASETS.TRAIN[0])
    assert tool.doubt_of_many(away, 99.0, 0.8) is None


def test_images_that_cannot_be_reached_are_named_and_tried_again(
    tool: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = Path(shutil.copytree(arguments[3], tmp_path / "photos")), tmp_path / "out"
    words = ["--output", str(out), *arguments[:3], str(photos), *arguments[4:]]
    (photos / "4.png").write_bytes(b"no image")
    away = [photos / f"{number}.png" for number in range(4)]

    def start(*gone: Path) -> tuple[int, str]:
        for path in gone:
            path.rename(tmp_path / path.name)
        code = tool.run(words)
        for path in gone:
            (tmp_path / path.name).rename(path)
        return code, capsys.readouterr().out

    # They go right after they were listed.
    tool.start(tool.parse_arguments(words))
    code, shown = start(*away)
    assert code == 1
    assert "none is listed: no image could be labeled" in shown
    first = ", ".join(map(str, away[:3]))
    assert shown.splitlines()[-1] == (
        f"4 images could not be reached, so left for another try: {first} and others. "
        f"{out}/unreached.jsonl has the reasons. Put them back and repeat the command."
    )
    code, shown = start(away[1])
    assert code == 1
    assert f"1 image could not be reached, so left for another try: {away[1]}. " in shown
    assert len(json.loads((out / "pseudo_labels.json").read_text())["images"]) == 3
    code, shown = start()
    assert code == 0
    assert "on 4 images" in shown
    assert f"1 image could not be read: {out}/skipped.jsonl" in shown
    assert "could not be reached" not in shown
