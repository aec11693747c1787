"""What a run folder says, and what keeps several from being compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dre_ssod.report.folders import RunFolder, config_differences, facts, notices, read_folders
from dre_ssod.runs.history import RunError, RunHistory, Series
from tests.factories import tiny_cfg


def entry(**changes: Any) -> dict[str, Any]:
    sets = {"labeled": "aa", "unlabeled": "bb", "test": "cc", **changes.pop("contents", {})}
    unknown = {"images": 1, "boxes": None, "classes": None}
    rows = [
        {"role": role, "name": f"{role}_set", "content": content, **unknown}
        for role, content in sets.items()
    ]
    return {
        "kind": "training",
        "started": "2026-01-02T10:00:00+00:00",
        "command": "train_net.py",
        "seed": 7,
        "weights": None,
        "world_size": 1,
        "precision": "float32",
        "machine": {"device": "cuda", "gpu": "NVIDIA X", "platform": "Linux", "host": "secret"},
        "versions": {"torch": "2.0", "cuda": None},
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "datasets": rows,
        **changes,
    }


def folder(name: str = "a", *trainings: dict[str, Any], **settings: str) -> RunFolder:
    known = {
        "SOLVER.MAX_ITER": "10",
        "SOLVER.IMS_PER_BATCH": "4",
        "SOLVER.BASE_LR": "0.01",
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.DEPTH": "50",
        **settings,
    }
    return RunFolder(
        path=Path(name),
        history=RunHistory(name, {"time": Series([9], [0.5])}),
        trainings=trainings or (entry(),),
        evaluations=[{"kind": "training", "finished": "2026-01-02T11:02:03+00:00"}],
        config="",
        settings=known,
        method="DRE",
    )


def test_facts_say_what_ran_where_and_not_on_whose_machine() -> None:
    found = facts(folder())
    assert found["Iterations"] == "10 of 10"
    assert found["Model"] == "resnet_fpn, depth 50"
    assert found["Machine"] == "NVIDIA X, Linux"
    assert found["Versions"] == "torch 2.0"
    assert found["Commit"] == "0123456789ab and changes"
    assert found["Took"].startswith("1:02:03")
    assert "secret" not in str(found)


def test_a_backbone_that_was_trained_before_is_not_random() -> None:
    assert facts(folder())["Started from"] == "random weights"
    assert facts(folder("a", entry(weights="r50.pkl")))["Started from"] == "r50.pkl"
    timm = {"MODEL.BACKBONE.NAME": "build_timm_fpn_backbone", "MODEL.TIMM.NAME": "lite"}
    found = facts(folder(**timm, **{"MODEL.TIMM.WEIGHTS": "lite-model"}))
    assert found["Started from"] == "lite-model for the backbone, else random weights"
    found = facts(folder(**timm, **{"MODEL.TIMM.WEIGHTS": ""}))
    assert found["Started from"] == "random weights"


def test_how_long_an_interrupted_run_took_is_not_known() -> None:
    found = facts(folder("a", entry(), entry(started="2026-01-02T10:30:00+00:00")))
    assert "Took" not in found
    assert found["Started"] == "2026-01-02 10:00 and again 2026-01-02 10:30"


def test_a_run_that_goes_on_after_its_end_is_not_finished() -> None:
    """It ended at 11:02 after 10 iterations."""
    assert facts(folder())["Finished"] == "2026-01-02 11:02"
    # Longer, and so far no further; or back at an earlier checkpoint.
    assert facts(folder(**{"SOLVER.MAX_ITER": "20"}))["Finished"] == "not yet"
    later = "2026-01-02T12:30:00+01:00", "2026-01-02T12:00:00+00:00"
    before, after = (
        facts(folder("a", entry(), entry(started=at, first_iteration=5)))["Finished"]
        for at in ("2026-01-02T11:30:00+01:00", later[0])
    )
    assert (before, after) == ("2026-01-02 11:02", "not yet")
    # A start after the end has nothing to train.
    ended = entry(started=later[1], first_iteration=10)
    assert facts(folder("a", entry(), ended))["Finished"] == "2026-01-02 11:02"


def test_equal_runs_need_no_notice() -> None:
    assert notices([folder("a"), folder("b")]) == []


def test_different_data_are_said() -> None:
    other = folder("b", entry(contents={"test": "other", "labeled": "others"}))
    tested, labeled = notices([folder("a"), other])
    assert "a and b were tested on different data" in tested
    assert tested.endswith("a: test_set; b: test_set.")
    assert "different labels" in labeled
    # Unlabeled images are what runs with and without them differ in.
    assert notices([folder("a"), folder("b", entry(contents={"unlabeled": "more"}))]) == []


def test_data_that_changed_while_a_run_was_interrupted_are_said() -> None:
    run = folder("a", entry(), entry(), entry(contents={"unlabeled": "x"}))
    (said,) = notices([run])
    assert "unlabeled data changed between start 2 and start 3" in said


def test_configs_are_compared_but_for_their_folders() -> None:
    one = folder("a", OUTPUT_DIR="a", SEED="1")
    other = folder("b", OUTPUT_DIR="b", SEED="2")
    assert config_differences([one, other]) == {"SEED": ["1", "2"]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(tiny_cfg(**{"SSOD.METHOD": "MeanTeacher"}).dump())
    (tmp_path / "run.json").write_text(json.dumps({"runs": [{"kind": "evaluation"}, entry()]}))
    (tmp_path / "metrics.json").write_text('{"iteration": 3, "loss_cls": 0.5}\n')
    return tmp_path


def test_a_folder_is_read(run: Path) -> None:
    (found,) = read_folders([run])
    assert (len(found.trainings), found.evaluations, found.method) == (1, [], "MeanTeacher")
    assert found.settings["MODEL.DEVICE"] == "cpu"
    assert found.set_of("test", "test_set") == entry()["datasets"][2]
    assert found.set_of("test", "labeled_set") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("{", "no readable list 'runs'"),
        ('{"runs": 3}', "must be a list"),
        ('{"runs": [{"kind": "evaluation"}]}', "tells of no training"),
        ('{"runs": [{"kind": "training"}]}', "an entry lacks started, command"),
    ],
)
def test_a_folder_without_a_training_is_refused(run: Path, content: str | None, said: str) -> None:
    (run / "run.json").unlink()
    if content is not None:
        (run / "run.json").write_text(content)
    with pytest.raises(RunError, match=said):
        read_folders([run])
