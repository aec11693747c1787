"""What is missing, and from where it is started."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from dre_ssod.checkpoints.folder import BURN_IN
from dre_ssod.engine.setup import complete
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.errors import CheckpointError
from dre_ssod.runs.history import METRICS
from dre_ssod.tables.definition import Cell, Repeat, TableError
from dre_ssod.tables.filed import file_result, read_results
from dre_ssod.tables.identity import Identity
from dre_ssod.tables.plan import (
    FINAL,
    IDENTITY,
    Plan,
    begun,
    folder_of,
    identify,
    make_plan,
    read_data,
    take_over,
)
from dre_ssod.tables.schedule import Job
from tests.engine.resume_harness import differences, flattened
from tests.tables.conftest import WriteTable, leave_run
from tests.tiny_dataset import TinyDataset, loggers_kept, tiny_run, write_tiny_dataset

ROWS = {
    "plain": {"set": {"SSOD.PRC.ENABLED": False}},
    "DRE": {},
    "ranked": {"set": {"TEST.RANK_BY_QUALITY": True}},
    "beta": {"set": {"MODEL.ROI_BOX_HEAD.BETA_NLL": 1.0}},
}


def leave_start(folder: Path, identity: Identity) -> None:
    """The note of a run that was begun."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / IDENTITY).write_text(json.dumps(identity.as_dict()))


def plan_of(
    write_table: WriteTable, tmp_path: Path
) -> tuple[list[Cell], dict[str, Identity], Plan]:
    cells = write_table(rows=ROWS, folds=[0]).cells()
    identities = identify(cells, lambda cfg: {"labeled": "a", "test": "b"})
    results = read_results(tmp_path / "results")
    return cells, identities, make_plan(cells, identities, results, tmp_path / "runs")


def test_a_part_of_a_table_takes_over_from_the_rest_of_it(
    write_table: WriteTable, tmp_path: Path
) -> None:
    cells, identities, _ = plan_of(write_table, tmp_path)
    runs = tmp_path / "runs"
    [chosen] = [cell for cell in cells if cell.row == "DRE"]
    assert begun(cells, runs) == []
    folder = folder_of("plain (fold 0)", identities, runs)
    leave_start(folder, identities["plain (fold 0)"])
    (folder / BURN_IN).touch()
    others = begun(cells, runs)
    assert [cell.row for cell in others] == ["plain"]
    assert not begun(others, tmp_path)
    [job] = make_plan([chosen], identities, [], runs).jobs
    assert (job.name, job.after, job.needs) == (chosen.name, "plain (fold 0)", folder / BURN_IN)
    # Not from one of other settings, whatever it is called.
    folder.rename(folder.with_name(f"{folder.name}0"))
    assert begun(cells, runs) == others
    [job] = make_plan([chosen], identities, [], runs).jobs
    assert job.after == ""


def test_nothing_is_taken_over_from_a_run_of_an_older_default(
    write_table: WriteTable, tmp_path: Path
) -> None:
    """The folder has the name that a run by the present default has, too."""
    cells, identities, _ = plan_of(write_table, tmp_path)
    by_row = {cell.row: cell for cell in cells}
    [job] = make_plan([by_row["DRE"]], identities, [], tmp_path / "runs").jobs
    job.folder.mkdir(parents=True)
    for kept in (FINAL, BURN_IN):
        (job.folder / kept).touch()
    own = identities["DRE (fold 0)"]
    for threshold, jobs in ((0.8, ["evaluation", "DRE (fold 0)"]), (0.9, ["training", ""])):
        settings = {**own.settings, "SSOD.SCORE_THRESHOLD": threshold}
        leave_start(job.folder, replace(own, settings=settings))
        plan = make_plan([by_row["ranked"]], identities, [], tmp_path / "runs")
        assert [plan.kinds["ranked (fold 0)"], plan.jobs[0].after] == jobs


def test_runs_start_from_those_that_are_the_same_so_far(
    write_table: WriteTable, tmp_path: Path
) -> None:
    _, _, plan = plan_of(write_table, tmp_path)
    starts = {job.name: (plan.kinds[job.name], job.after) for job in plan.jobs}
    assert starts == {
        "plain (fold 0)": ("training", ""),
        "DRE (fold 0)": ("training", "plain (fold 0)"),
        "ranked (fold 0)": ("evaluation", "DRE (fold 0)"),
        "beta (fold 0)": ("training", ""),
    }
    by_name = {job.name: job for job in plan.jobs}
    assert by_name["DRE (fold 0)"].needs == by_name["plain (fold 0)"].folder / BURN_IN
    assert by_name["plain (fold 0)"].words[-2:] == ["SSOD.BURN_IN_KEPT", "True"]
    assert str(by_name["DRE (fold 0)"].folder / FINAL) in by_name["ranked (fold 0)"].words


def test_what_is_there_is_not_run_again_and_serves_as_a_start(
    write_table: WriteTable, tmp_path: Path
) -> None:
    cells, identities, _ = plan_of(write_table, tmp_path)
    run = folder_of(cells[0].name, identities, tmp_path / "runs")
    leave_run(run, {"teacher": 50.0, "student": 49.0})
    file_result(cells[0], identities[cells[0].name], run, tmp_path / "results", "training")
    _, _, plan = plan_of(write_table, tmp_path)
    assert list(plan.found) == ["plain (fold 0)"]
    assert plan.found["plain (fold 0)"].figure("student", "AP75") == 39.0
    # Its folder has no model any more.
    assert [job.after for job in plan.jobs] == ["", "DRE (fold 0)", ""]
    (run / BURN_IN).touch()
    leave_start(run, identities[cells[0].name])
    _, _, plan = plan_of(write_table, tmp_path)
    assert [job.after for job in plan.jobs] == ["plain (fold 0)", "DRE (fold 0)", ""]


def test_a_folder_of_another_run_is_refused(write_table: WriteTable, tmp_path: Path) -> None:
    cells, identities, plan = plan_of(write_table, tmp_path)
    job = plan.jobs[0]
    job.prepare()
    job.prepare()
    other = {**identities[cells[0].name].as_dict(), "version": "0.0"}
    (job.folder / "identity.json").write_text(json.dumps(other))
    with pytest.raises(TableError, match="other settings, data or version"):
        job.prepare()


def test_data_are_known_by_what_they_hold_and_read_once(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "one")
    cfg = tiny_run(data, tmp_path)
    first = read_data(cfg)
    assert set(first) == {"labeled", "unlabeled", "test"}
    cfg.DATASETS.LABELED_FOLD = 2
    second = read_data(cfg)
    assert first["test"] == second["test"]
    assert first["labeled"] != second["labeled"]
    looked = []
    cells = [Cell(row, Repeat(None, None), cfg.clone()) for row in ("a", "b")]
    identify(cells, lambda cfg: looked.append(cfg) or {})  # type: ignore[func-returns-value]
    assert len(looked) == 1
    # Images without boxes are labeled to one of these, and not to the other.
    cells[1].cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    identify(cells, lambda cfg: looked.append(cfg) or {})  # type: ignore[func-returns-value]
    assert len(looked) == 3


def test_several_test_sets_are_not_one_of_all_their_images(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    for name, images in (("a", content["images"][:5]), ("b", content["images"][5:])):
        ids = {image["id"] for image in images}
        own = [item for item in content["annotations"] if item["image_id"] in ids]
        part = {**content, "images": images, "annotations": own}
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    uris = {name: data.labeled.replace("train.json", f"{name}.json") for name in ("train", *"ab")}

    def tested_on(*names: str) -> Identity:
        sets = tuple(uris[name] for name in names)
        cfg = tiny_run(data, tmp_path, **{"DATASETS.TEST": sets})
        return Identity.of(cfg, read_data(cfg))

    both = tested_on("a", "b")
    assert not both.is_result_for(tested_on("train"))
    # Figures are of the first.
    assert not both.has_test_images_of(tested_on("train"))
    assert both.has_test_images_of(tested_on("a"))
    assert not both.has_test_images_of(tested_on("b"))


def train(job: Job, data: TinyDataset, keys: dict[str, object]) -> dict[str, str]:
    """Train as a job says; returns all that its last checkpoint holds but for times."""
    cfg = tiny_run(data, job.folder, **keys)
    cfg.SSOD.BURN_IN_KEPT = "True" in job.words
    complete(cfg)
    seed_all_rng(cfg.SEED)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    content = torch.load(job.folder / FINAL, weights_only=True)
    # Lines of metrics.json, which another run has written, and keys about files.
    content["trainer"]["hooks"].pop("ResumingWriter")
    content["trainer"]["run"]["settings"].pop("SSOD.BURN_IN_KEPT")
    return flattened(content, "")


def test_a_run_from_a_shared_burn_in_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """Every key that is free after the burn-in has another value."""
    data = write_tiny_dataset(tmp_path / "data")
    common = {"TEST.EVAL_PERIOD": 0, "DATASETS.TEST": (), "SSOD.BURN_IN_ITERS": 2}
    changed = {
        "SSOD.SCORE_THRESHOLD": 0.3,
        "SSOD.UNSUP_LOSS_WEIGHT": 1.0,
        "SSOD.UNSUP_WARMUP_ITERS": 2,
        "SSOD.UNSUP_CLS_NORMALIZER": "sampled",
        "SSOD.UNSUP_RPN_OBJECTNESS": False,
        "SSOD.UNSUP_RPN_BOX": False,
        "SSOD.PCV.ENABLED": True,
        "SSOD.LER.ENABLED": False,
        "SSOD.PRC.ENABLED": False,
        "SSOD.QUALITY_POWER": 4.0,
        "SSOD.RELATIVE_WEIGHTS": True,
        "SSOD.LABELS.RANK_SHARE": 1.0,
        "SSOD.LABELMATCH.MIN_SCORE": 0.1,
        "SSOD.LABELMATCH.WINDOW": 8,
        "SSOD.LABELS.RANK_BY_QUALITY": True,
        "SSOD.LABELS.VOTING_SIGMA_T": 0.1,
        "TEST.RANK_BY_QUALITY": True,
        "TEST.VARIANCE_VOTING.ENABLED": True,
        "TEST.VARIANCE_VOTING.SIGMA_T": 0.1,
    }
    keys = [common, {**common, **changed}]
    cells = [
        Cell(row, Repeat(None, None), tiny_run(data, tmp_path, **own))
        for row, own in zip(("donor", "taker"), keys, strict=True)
    ]
    identities = identify(cells, lambda cfg: {})
    donor, taker = make_plan(cells, identities, [], tmp_path / "shared").jobs
    [alone] = make_plan(cells[1:], identities, [], tmp_path / "alone").jobs
    assert taker.after == donor.name
    finals = []
    with loggers_kept():
        for job, own in ((donor, keys[0]), (taker, keys[1]), (alone, keys[1])):
            job.prepare()
            finals.append(train(job, data, own))
    assert not differences(finals[1], finals[2])
    assert differences(finals[0], finals[1])


@pytest.fixture(scope="module")
def burned_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyDataset, Path]:
    """Data, and the folder of a run of DRE that kept the end of its burn-in."""
    folder = tmp_path_factory.mktemp("burned_in")
    data = write_tiny_dataset(folder / "data")
    with loggers_kept():
        train(Job("dre", folder / "dre", ["True"], 4, 4), data, SHORT)
    return data, folder / "dre"


SHORT = {"TEST.EVAL_PERIOD": 0, "DATASETS.TEST": (), "SSOD.BURN_IN_ITERS": 2}


def test_supervised_training_from_a_burn_in_is_the_same_to_the_last_bit(
    burned_in: tuple[TinyDataset, Path], tmp_path: Path
) -> None:
    data, donor = burned_in
    keys = {**SHORT, "SSOD.ENABLED": False, "DATASETS.UNLABELED": (), "SOLVER.IMS_PER_BATCH": 2}
    for name in ("taker", "alone"):
        (tmp_path / name).mkdir()
    take_over(donor / BURN_IN, tmp_path / "taker")
    with loggers_kept():
        taker, alone = (
            train(Job(name, tmp_path / name, [], 4, 4), data, keys) for name in ("taker", "alone")
        )
    assert not differences(taker, alone)
    series = [(tmp_path / name / METRICS).read_text().splitlines() for name in ("taker", "alone")]
    assert len(series[0]) == len(series[1])


def test_a_method_changes_before_the_first_pseudo_label_alone(
    burned_in: tuple[TinyDataset, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, donor = burned_in
    keys = {**SHORT, "SSOD.METHOD": "MeanTeacher"}
    for name in ("taker", "late", "stateful"):
        (tmp_path / name).mkdir()
    take_over(donor / BURN_IN, tmp_path / "taker")
    with loggers_kept():
        train(Job("taker", tmp_path / "taker", [], 4, 4), data, keys)
    assert "SSOD.METHOD 'MeanTeacher'; it was 'DRE' in the burn-in" in caplog.text
    take_over(donor / FINAL, tmp_path / "late")
    with loggers_kept(), pytest.raises(CheckpointError, match="keep its method"):
        train(Job("late", tmp_path / "late", [], 4, 4), data, keys)
    # One that has learned something by then has no state to begin with.
    take_over(donor / BURN_IN, tmp_path / "stateful")
    with loggers_kept(), pytest.raises(CheckpointError, match="keep its method"):
        train(
            Job("x", tmp_path / "stateful", [], 4, 4), data, {**SHORT, "SSOD.METHOD": "LabelMatch"}
        )
