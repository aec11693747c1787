"""A trainer that takes single steps, and what tests compare of its models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from dre_ssod.config.checks import check_config
from dre_ssod.engine.setup import complete
from dre_ssod.engine.step import SemiSupervisedStep, StepSettings
from dre_ssod.methods.dre import DRE
from dre_ssod.structures import TrainingBatch
from tests.engine.models import opinionated
from tests.factories import labeled_image, tiny_cfg, tiny_model, unlabeled_sample

METHOD = DRE.Settings(unsup_loss_weight=2.0, score_threshold=0.3, ema_decay=0.9)
SETTINGS = StepSettings(
    burn_in_iters=0,
    max_iter=100,
    accumulation_steps=1,
    autocast_dtype=None,
    skip_nonfinite=False,
    max_unreadable_share=0.01,
    seed=11,
)

# Every anchor and every proposal is sampled, so that no loss depends on random numbers.
SAMPLE_ALL = {
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 1024,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
}


def batch(number: int, labeled: int = 1, unlabeled: int = 1) -> TrainingBatch:
    return TrainingBatch(
        labeled=[labeled_image(seed=10 * number + n) for n in range(labeled)],
        unlabeled=[unlabeled_sample(seed=10 * number + n) for n in range(unlabeled)],
    )


def make_trainer(
    batches: Sequence[TrainingBatch],
    lr: float = 0.01,
    overrides: dict[str, Any] | None = None,
    **settings: Any,
) -> SemiSupervisedStep:
    """A trainer whose teacher finds something on the images and whose student is another model.

    Args:
        settings: of the step or of the method.
    """
    cfg = tiny_cfg(**(overrides or {}))
    names = {f.name for f in fields(METHOD)} & settings.keys()
    of_method = replace(METHOD, **{name: settings.pop(name) for name in names})
    student = tiny_model(cfg, seed=1, spread=1.0)
    teacher = opinionated(tiny_model(cfg, seed=2, spread=5.0))
    optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9)
    return SemiSupervisedStep(
        student, teacher, DRE(of_method), batches, optimizer, replace(SETTINGS, **settings)
    )


def run(trainer: SemiSupervisedStep, iterations: Sequence[int] = (0,)) -> dict[str, float]:
    """Run steps and return what the last one wrote."""
    with EventStorage(0) as storage:
        for trainer.iter in iterations:
            trainer.run_step()
        return {name: value for name, (value, _) in storage.latest().items()}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        scale = float(second[name].abs().max())
        torch.testing.assert_close(
            tensor, second[name], rtol=1e-4, atol=1e-5 * scale + 1e-9, msg=name
        )


def completed(cfg: CfgNode) -> CfgNode:
    """A config as a training has it: completed, checked and frozen."""
    complete(cfg)
    check_config(cfg, 1)
    cfg.freeze()
    return cfg
