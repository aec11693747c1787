from __future__ import annotations

import argparse
import itertools
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.engine import DefaultPredictor
from detectron2.utils.env import seed_all_rng

import dre_ssod
from dre_ssod import add_ssod_config
from dre_ssod.engine.setup import setup
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.errors import CheckpointError, SourceError
from tests.engine.resume_harness import Stop, StopAt
from tests.engine.steps import completed
from tests.tiny_dataset import TinyDataset, loggers_kept, tiny_run


def train(cfg: CfgNode, resume: bool = False, stop_at: int | None = None) -> SSODTrainer:
    """Train as a fresh process does."""
    seed_all_rng(cfg.SEED)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume)
    if stop_at is None:
        trainer.train()
    else:
        trainer.register_hooks([StopAt(stop_at)])
        with pytest.raises(Stop):
            trainer.train()
    return trainer


def checkpoint(folder: Path, name: str = "model_final.pth") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return content


def assert_same(first: Any, second: Any, where: str = "") -> None:
    """Nested dicts and lists with bit-identical tensors."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for number, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


@pytest.fixture(scope="module")
def finished(data: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSODTrainer]:
    """An uninterrupted run, started as ``train_net.py`` does."""
    folder = tmp_path_factory.mktemp("run")
    cfg = tiny_run(data, folder)
    file = folder.with_suffix(".yaml")
    file.write_text(cfg.dump(), encoding="utf-8")
    args = argparse.Namespace(config_file=str(file), opts=[], resume=False, eval_only=False)
    with loggers_kept():
        yield train(setup(args, ExitStack()))


def folder_of(trainer: SSODTrainer) -> Path:
    return Path(trainer.cfg.OUTPUT_DIR)


def metrics_of(trainer: SSODTrainer) -> dict[str, float]:
    lines = (folder_of(trainer) / "metrics.json").read_text(encoding="utf-8").splitlines()
    found: dict[str, float] = {}
    for line in lines:
        found |= json.loads(line)
    return found


def test_metrics_show_losses_evaluation_and_figures(finished: SSODTrainer) -> None:
    found = metrics_of(finished)
    for model, metric in itertools.product(("teacher", "student"), ("AP", "AP50", "AP75")):
        assert f"{model}/bbox/{metric}" in found
    for name in ("total_loss", "loss_cls", "loss_box_reg_unsup", "loss_rpn_loc_unsup", "lr"):
        assert name in found
    assert found["ssod/labeled_boxes_per_image"] == 3.0
    for name in ("pseudo_boxes_per_image", "sigma", "prc_weight_bg", "ema_decay"):
        assert f"ssod/{name}" in found


def test_the_run_folder_holds_what_detectron2_users_expect(finished: SSODTrainer) -> None:
    folder = folder_of(finished)
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "log.txt", "metrics.json", "last_checkpoint", "inference"} <= names
    assert {"model_0000001.pth", "model_0000003.pth", "model_final.pth"} <= names
    assert list(folder.glob("events.out.tfevents.*"))
    split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    assert (split["percent"], split["fold"], split["labeled"], split["total"]) == (50.0, 0, 4, 8)
    assert len(finished.pools.unlabeled) == 4 + 4
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "4 labeled and 8 unlabeled images; classes: class0, class1, class2" in log
    # As a name of its own; in the table of versions it may be the end of a folder's.
    assert not re.search(r"(?<!\S)ssod/", log)
    assert "  ssod  ema_decay: " in log


def test_the_checkpoint_is_the_teacher_with_the_rest_beside_it(finished: SSODTrainer) -> None:
    saved = checkpoint(folder_of(finished))
    assert {"model", "student", "trainer", "iteration"} <= saved.keys()
    assert_same(saved["model"], dict(finished.teacher.state_dict()))
    assert_same(saved["student"], dict(finished.student.state_dict()))
    differ = [k for k in saved["model"] if not torch.equal(saved["model"][k], saved["student"][k])]
    assert differ
    assert saved["iteration"] == saved["trainer"]["iteration"] == 3


def test_plain_detectron2_loads_the_teacher_and_gives_its_boxes(
    finished: SSODTrainer, tmp_path: Path
) -> None:
    cfg = get_detectron2_cfg()
    add_ssod_config(cfg)
    cfg.merge_from_file(str(folder_of(finished) / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(folder_of(finished) / "model_final.pth")
    predictor = DefaultPredictor(cfg)
    [inputs] = next(iter(SSODTrainer.build_test_loader(finished.cfg, cfg.DATASETS.TEST[0])))
    found = predictor(cv2.imread(inputs["file_name"]))["instances"]
    finished.teacher.eval()
    with torch.no_grad():
        expected = finished.teacher([inputs])[0]["instances"]
    assert len(expected) > 0
    for name in ("pred_boxes_sigma", "localization_quality", "scores", "pred_classes"):
        assert torch.equal(found.get(name), expected.get(name))
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    # And this project's own way, which needs neither config nor data.
    shutil.copy(cfg.MODEL.WEIGHTS, tmp_path / "moved.pth")
    detector = dre_ssod.load(tmp_path / "moved.pth")
    assert [c["id"] for c in detector.categories] == [1, 2, 3]
    own = detector(inputs["file_name"], min_score=0.001)
    assert own.class_names == tuple(f"class{number}" for number in expected.pred_classes)
    assert np.array_equal(own.boxes, expected.pred_boxes.tensor.numpy())


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    finished: SSODTrainer, data: TinyDataset, tmp_path: Path
) -> None:
    cfg = completed(tiny_run(data, tmp_path))
    # Iteration 2 is lost: the last checkpoint is from before it.
    train(cfg, stop_at=3)
    # The seed is the run's; the number of workers does not matter.
    other = tiny_run(data, tmp_path, **{"SEED": 99, "DATALOADER.NUM_WORKERS": 1})
    resumed = train(completed(other), resume=True)
    assert resumed.start_iter == 2
    expected = checkpoint(folder_of(finished))
    found = checkpoint(tmp_path)
    for part in ("model", "student"):
        assert_same(found[part], expected[part], part)
    assert_same(
        found["trainer"]["_trainer"]["optimizer"], expected["trainer"]["_trainer"]["optimizer"]
    )
    # Losses in the file are medians over the last iterations of one process.
    for name in ("teacher/bbox/AP", "student/bbox/AP", "lr"):
        assert metrics_of(resumed)[name] == metrics_of(finished)[name]


def test_a_run_is_not_resumed_on_other_data_in_silence(data: TinyDataset, tmp_path: Path) -> None:
    cfg = tiny_run(data, tmp_path / "run", **{"SOLVER.MAX_ITER": 1, "TEST.EVAL_PERIOD": 0})
    train(completed(cfg.clone()))
    content = json.loads((data.root / "train.json").read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"][2] += 1
    (tmp_path / "other.json").write_text(json.dumps(content), encoding="utf-8")
    cfg.DATASETS.TEST = (f"coco://{tmp_path}/other.json?images={data.root}/train",)
    with pytest.raises(SourceError, match=r"test sets: 8 images, now 8: 1 with other boxes"):
        train(completed(cfg.clone()), resume=True)
    cfg.DATASETS.ACCEPT_CHANGED = ("test",)
    assert train(completed(cfg), resume=True).start_iter == 1


def test_a_used_folder_is_refused_without_resume(finished: SSODTrainer) -> None:
    trainer = SSODTrainer(finished.cfg)
    with pytest.raises(FileExistsError, match="--resume, or choose another OUTPUT_DIR"):
        trainer.resume_or_load(resume=False)


def test_a_used_folder_keeps_its_config(finished: SSODTrainer) -> None:
    """The refusal comes before anything is written."""
    file = folder_of(finished) / "config.yaml"
    before = file.read_text(encoding="utf-8")
    args = argparse.Namespace(
        config_file=str(file), opts=["SEED", "77"], resume=False, eval_only=False
    )
    with pytest.raises(FileExistsError, match="--resume"):
        setup(args, ExitStack())
    assert file.read_text(encoding="utf-8") == before


def test_weights_start_both_models_and_resume_without_a_checkpoint_starts_anew(
    finished: SSODTrainer, data: TinyDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = str(folder_of(finished) / "model_final.pth")
    trainer = SSODTrainer(completed(tiny_run(data, tmp_path, **{"MODEL.WEIGHTS": weights})))
    logging.getLogger("dre_ssod").propagate = True
    with caplog.at_level("WARNING", "dre_ssod"):
        trainer.resume_or_load(resume=True)
    assert "has no checkpoint yet; starting at iteration 0" in caplog.text
    assert trainer.start_iter == 0
    assert_same(dict(trainer.student.state_dict()), dict(finished.teacher.state_dict()))
    assert_same(dict(trainer.teacher.state_dict()), dict(finished.teacher.state_dict()))


def test_the_baseline_trains_on_labels_alone(data: TinyDataset, tmp_path: Path) -> None:
    cfg = completed(
        tiny_run(
            data,
            tmp_path,
            **{
                "SSOD.ENABLED": False,
                "SOLVER.MAX_ITER": 1,
                "SSOD.EVAL_MODEL": "student",
                "DATASETS.UNLABELED": ("folder:///does/not/exist",),
            },
        )
    )
    found = metrics_of(train(cfg))
    assert not [name for name in found if "unsup" in name or "pseudo" in name]
    assert "student/bbox/AP" in found
    assert "teacher/bbox/AP" not in found


def test_a_checkpoint_from_before_methods_resumes_to_the_same_bits(
    data: TinyDataset, tmp_path: Path
) -> None:
    """It differs by the missing name and state of the method alone."""
    run = {"SOLVER.MAX_ITER": 4, "TEST.EVAL_PERIOD": 0}
    with loggers_kept():
        whole = train(completed(tiny_run(data, tmp_path / "whole", **run)))
        cut = completed(tiny_run(data, tmp_path / "cut", **run))
        train(cut, stop_at=2)
    path = tmp_path / "cut" / "model_0000001.pth"
    content = torch.load(path, weights_only=True)
    assert content["trainer"]["_trainer"].pop("method") == {"name": "DRE", "state": {}}
    torch.save(content, path)
    with loggers_kept():
        train(cut, resume=True)
    first, second = (checkpoint(tmp_path / name) for name in ("whole", "cut"))
    assert_same(first["model"], second["model"])
    assert_same(first["student"], second["student"])
    assert whole.iter == 4


def test_a_run_is_not_resumed_with_another_method(data: TinyDataset, tmp_path: Path) -> None:
    cfg = tiny_run(data, tmp_path, **{"SOLVER.MAX_ITER": 2, "TEST.EVAL_PERIOD": 0})
    with loggers_kept():
        train(completed(cfg.clone()))
        cfg.SSOD.METHOD = "MeanTeacher"
        with pytest.raises(CheckpointError, match=r"SSOD\.METHOD 'DRE'.*'MeanTeacher'"):
            train(completed(cfg), resume=True)
