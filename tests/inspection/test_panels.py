"""Panels show what they claim to, and a run with them ends with the weights of one without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dre_ssod.config.checks import check_config
from dre_ssod.engine.hooks.panels import PanelHook
from dre_ssod.engine.setup import complete
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.inspection.inspect import Inspection
from dre_ssod.inspection.panels import LARGEST_SIDE, ReducedView, draw_inspection
from dre_ssod.structures import View
from tests.factories import NUM_CLASSES, affine, pseudo_labels, unlabeled_sample
from tests.tiny_dataset import TinyDataset, loggers_kept, tiny_run

NAMES = tuple(f"class{n}" for n in range(NUM_CLASSES))


def proposals(boxes: list[list[float]], classes: list[int], weights: list[float]) -> Instances:
    found = Instances((64, 96))
    found.proposal_boxes = Boxes(torch.tensor(boxes))
    found.gt_classes = torch.tensor(classes)
    found.weight = torch.tensor(weights)
    return found


def inspection(**changes: Any) -> Inspection:
    parts = {
        "sample": unlabeled_sample(),
        "weak_labels": pseudo_labels(),
        "strong_labels": pseudo_labels(),
        "proposals": proposals(
            [[10, 10, 40, 40], [0, 0, 20, 60]], classes=[0, NUM_CLASSES], weights=[0.4, 0.9]
        ),
    }
    return Inspection(**(parts | changes))


def test_the_panels_depend_on_every_part() -> None:
    base = draw_inspection(inspection(), NAMES, "RGB")
    assert base.dtype == np.uint8
    other_weight = inspection().proposals
    other_weight.weight = torch.tensor([0.1, 0.9])
    unsure = pseudo_labels()
    unsure.gt_sigma = torch.full((2, 4), 5.0)
    for changes in (
        {"weak_labels": unsure},
        {"strong_labels": pseudo_labels([[20.0, 20.0, 50.0, 50.0]])},
        {"proposals": other_weight},
        {"sample": unlabeled_sample(strong=affine(shift=(9.0, 0.0)))},
    ):
        assert not np.array_equal(draw_inspection(inspection(**changes), NAMES, "RGB"), base)


def test_the_channel_order_of_the_views_is_undone() -> None:
    rgb = draw_inspection(inspection(), NAMES, "RGB")
    sample = unlabeled_sample()
    turned = type(sample)(
        sample.file_name,
        *(View(view.image.flip(0), view.matrix) for view in (sample.weak, sample.strong)),
    )
    np.testing.assert_array_equal(draw_inspection(inspection(sample=turned), NAMES, "BGR"), rgb)


def test_large_views_and_their_labels_are_reduced_together() -> None:
    large = View(torch.zeros(3, 2 * LARGEST_SIDE, LARGEST_SIDE, dtype=torch.uint8), affine())
    labels = pseudo_labels([[10.0, 20.0, 30.0, 40.0]], size=large.size)
    labels.gt_sigma = torch.tensor([[2.0, 4.0, 6.0, 8.0]])
    reduced = ReducedView(large.image, "RGB")
    assert reduced.image.shape == (LARGEST_SIDE, LARGEST_SIDE // 2, 3)
    found = reduced.labels(labels)
    assert found.gt_boxes.tensor.tolist() == [[5.0, 10.0, 15.0, 20.0]]
    assert found.gt_sigma.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert labels.gt_boxes.tensor.tolist() == [[10.0, 20.0, 30.0, 40.0]]


def train(data: TinyDataset, folder: Path, **overrides: object) -> SSODTrainer:
    short = {"TEST.EVAL_PERIOD": 0, "DATASETS.TEST": (), "SOLVER.ACCUMULATION_STEPS": 2}
    short["SOLVER.STEPS"] = ()
    cfg = tiny_run(data, folder, **short, **overrides)
    complete(cfg)
    check_config(cfg, 1)
    seed_all_rng(cfg.SEED)
    with loggers_kept():
        trainer = SSODTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
    return trainer


def test_panels_are_drawn_in_time_and_change_no_weight(data: TinyDataset, tmp_path: Path) -> None:
    # Batch norms that learn would show an image that was seen once more.
    run = {"MODEL.TIMM.NORM": "BN", "SOLVER.MAX_ITER": 3, "SSOD.BURN_IN_ITERS": 1}
    without = train(data, tmp_path / "without", **run)
    drawing = train(data, tmp_path / "with", **run, **{"SSOD.PANEL_PERIOD": 1})
    assert not (tmp_path / "without" / "panels").exists()
    # The burn-in has no unlabeled images, each micro-batch after it has one.
    names = [path.name for path in sorted((tmp_path / "with" / "panels").iterdir())]
    assert names == ["0000001_0.jpg", "0000002_0.jpg"]
    picture = cv2.imread(str(tmp_path / "with" / "panels" / names[0]))
    assert picture.shape[1] > 1500
    for name in ("student", "teacher"):
        expected = getattr(without, name).state_dict()
        found = getattr(drawing, name).state_dict()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    events = EventAccumulator(str(tmp_path / "with"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["panels/image0"]
    assert [event.step for event in events.Images("panels/image0")] == [1, 2]


def test_only_the_period_is_drawn(data: TinyDataset, tmp_path: Path) -> None:
    train(data, tmp_path, **{"SSOD.PANEL_PERIOD": 2, "SOLVER.MAX_ITER": 3})
    assert [path.name for path in (tmp_path / "panels").iterdir()] == ["0000001_0.jpg"]


@pytest.mark.parametrize("off", [{"SSOD.PANEL_PERIOD": 0}, {"SSOD.ENABLED": False}])
def test_off_means_no_hook(data: TinyDataset, tmp_path: Path, off: dict[str, object]) -> None:
    cfg = tiny_run(data, tmp_path, **({"SSOD.PANEL_PERIOD": 5} | off))
    complete(cfg)
    assert not any(isinstance(hook, PanelHook) for hook in SSODTrainer(cfg)._hooks)
