"""Two processes against one process on the union of their batches."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from dre_ssod.engine.setup import complete
from dre_ssod.engine.step import SemiSupervisedStep, StepSettings
from dre_ssod.engine.trainer import SSODTrainer, _wrap
from dre_ssod.methods.dre import DRE
from dre_ssod.structures import TrainingBatch
from tests.engine.models import opinionated
from tests.engine.steps import SAMPLE_ALL
from tests.factories import affine, labeled_image, tiny_cfg, tiny_model, unlabeled_sample
from tests.forks import run_two_processes
from tests.tiny_dataset import TinyDataset, tiny_run, write_tiny_dataset

WORLD_SIZE = 2
BETA = 2.0

OUT_OF_SIGHT = affine(shift=(10_000.0, 0.0))


def batch_of(rank: int, barren: bool) -> TrainingBatch:
    """One labeled and one unlabeled image; the last process may find no box in either."""
    if barren and rank == WORLD_SIZE - 1:
        return TrainingBatch(
            [labeled_image(seed=rank, boxes=())], [unlabeled_sample(rank, strong=OUT_OF_SIGHT)]
        )
    return TrainingBatch([labeled_image(seed=rank)], [unlabeled_sample(seed=rank)])


def union(barren: bool) -> TrainingBatch:
    parts = [batch_of(rank, barren) for rank in range(WORLD_SIZE)]
    return TrainingBatch(
        [image for part in parts for image in part.labeled],
        [sample for part in parts for sample in part.unlabeled],
    )


def make_trainer(model: nn.Module, teacher: Any, batches: Any = ()) -> SemiSupervisedStep:
    settings = StepSettings(
        burn_in_iters=0,
        max_iter=100,
        accumulation_steps=2,
        autocast_dtype=None,
        skip_nonfinite=False,
        max_unreadable_share=0.01,
        seed=5,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    method = DRE(DRE.Settings(score_threshold=0.3, unsup_loss_weight=BETA, ema_decay=0.9))
    return SemiSupervisedStep(model, teacher, method, batches, optimizer, settings)


def one_pass(weights: dict[str, Any], batch: TrainingBatch) -> dict[str, dict[str, Tensor]]:
    """Losses and gradients of one forward and backward pass."""
    cfg = tiny_cfg(**SAMPLE_ALL)
    student, teacher = tiny_model(cfg), tiny_model(cfg)
    student.load_state_dict(weights["student"])
    teacher.load_state_dict(weights["teacher"])
    trainer = make_trainer(_wrap(student), teacher)
    # Detectron2's heads write figures of their own.
    with EventStorage(0):
        losses = trainer.compute_losses(batch)
    losses.total(trainer.weight).backward()
    terms = losses.supervised | losses.unsupervised
    trained = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    return {
        "losses": {name: value.detach() for name, value in terms.items()},
        "gradients": {name: p.grad.clone() for name, p in trained if p.grad is not None},
        "missing": {name: p for name, p in trained if p.grad is None},
    }


def three_steps(rank: int, **overrides: Any) -> dict[str, dict[str, Tensor]]:
    """Student and teacher after three steps from weights that differ between the processes."""
    cfg = tiny_cfg(**overrides)
    student = tiny_model(cfg, seed=rank, spread=5.0)
    model = _wrap(student)
    batches = [batch_of(rank, barren=number % 2 == 1) for number in range(6)]
    trainer = make_trainer(model, copy.deepcopy(student), batches)
    with EventStorage(0):
        for trainer.iter in range(3):
            trainer.run_step()
    return {"student": student.state_dict(), "teacher": trainer.teacher.state_dict()}


class Guesser(nn.Module):
    """Finds the objects of the tiny set more or less, the same ones wherever it runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._objects = json.loads((folder / "train.json").read_text(encoding="utf-8"))[
            "annotations"
        ]

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        return [{"instances": self._guess(image)} for image in inputs]

    def _guess(self, image: dict[str, Any]) -> Instances:
        found = [item for item in self._objects if item["image_id"] == image["image_id"]]
        generator = torch.Generator().manual_seed(image["image_id"])
        boxes = torch.tensor([item["bbox"] for item in found])
        boxes[:, 2:] += boxes[:, :2]
        boxes += 2.0 * torch.randn(boxes.shape, generator=generator)
        return Instances(
            (image["height"], image["width"]),
            pred_boxes=Boxes(boxes),
            scores=torch.rand(len(found), generator=generator),
            pred_classes=torch.tensor([item["category_id"] - 1 for item in found]),
        )


def evaluation(folder: Path) -> dict[str, float]:
    """COCO-style AP of a model on eight images, by however many processes there are."""
    cfg = tiny_run(TinyDataset(folder), folder / f"out{comm.get_world_size()}")
    complete(cfg)
    results = SSODTrainer.test(cfg, Guesser(folder))
    return dict(results["bbox"]) if results else {}


def worker(rank: int, weights: dict[str, Any], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: one_pass(weights, batch_of(rank, barren))
        for name, barren in (("rich", False), ("barren", True))
    }
    found["steps"] = three_steps(rank)
    found["batch norm"] = three_steps(rank, **{"MODEL.TIMM.NORM": "BN"})
    found["evaluation"] = evaluation(folder)
    return found


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    cfg = tiny_cfg(**SAMPLE_ALL)
    return {
        "student": tiny_model(cfg, seed=1, spread=1.0).state_dict(),
        "teacher": opinionated(tiny_model(cfg, seed=2, spread=5.0)).state_dict(),
    }


@pytest.fixture(scope="module")
def ranks(
    weights: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    write_tiny_dataset(folder)
    return run_two_processes(worker, weights, folder, folder=folder)


@pytest.mark.parametrize("case", ["rich", "barren"])
def test_two_processes_are_one_process_on_the_union_batch(
    ranks: list[dict[str, Any]], weights: dict[str, Any], case: str
) -> None:
    expected = one_pass(weights, union(barren=case == "barren"))
    for name, value in expected["losses"].items():
        mean = torch.stack([rank[case]["losses"][name] for rank in ranks]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6, msg=name)
    assert expected["losses"]["loss_box_reg"] != 0.0
    assert expected["losses"]["loss_box_reg_unsup"] != 0.0
    if case == "barren":
        for name in ("loss_box_reg", "loss_box_reg_unsup", "loss_rpn_loc_unsup"):
            assert ranks[1][case]["losses"][name] == 0.0
    for rank in ranks:
        assert rank[case]["gradients"].keys() == expected["gradients"].keys()
        for name, gradient in expected["gradients"].items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(
                rank[case]["gradients"][name], gradient, rtol=1e-3, atol=1e-4 * scale, msg=name
            )


@pytest.mark.parametrize("case", ["rich", "barren"])
def test_every_process_reaches_every_parameter(ranks: list[dict[str, Any]], case: str) -> None:
    for rank in ranks:
        assert not rank[case]["missing"]


@pytest.mark.parametrize("norm", ["steps", "batch norm"])
@pytest.mark.parametrize("model", ["student", "teacher"])
def test_models_are_identical_on_all_processes_after_three_steps(
    ranks: list[dict[str, Any]], model: str, norm: str
) -> None:
    """The statistics of batch norms too, although each process sees its own images."""
    first, second = (rank[norm][model] for rank in ranks)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    teacher, student = ranks[0][norm]["teacher"], ranks[0][norm]["student"]
    assert any(not torch.equal(teacher[name], student[name]) for name in teacher)


def test_two_processes_evaluate_as_one(
    ranks: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = evaluation(write_tiny_dataset(tmp_path_factory.mktemp("alone")).root)
    assert 10.0 < expected["AP"] < 90.0
    assert ranks[0]["evaluation"] == pytest.approx(expected, abs=0.0, nan_ok=True)
    assert ranks[1]["evaluation"] == {}
