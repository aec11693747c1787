"""What the trainer derives from a config, without training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dre_ssod.engine.hooks.evaluation import best_metric_name
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.engine.training_data import images_per_pass
from tests.factories import tiny_cfg, tiny_model


@pytest.mark.parametrize(
    ("images", "ratio", "world_size", "steps", "expected"),
    [(20, (1, 4), 1, 1, (4, 16)), (20, (1, 4), 2, 2, (1, 4)), (16, (1, 1), 4, 1, (2, 2))],
)
def test_images_of_a_pass(
    images: int, ratio: tuple[int, int], world_size: int, steps: int, expected: tuple[int, int]
) -> None:
    cfg = tiny_cfg()
    cfg.SOLVER.IMS_PER_BATCH = images
    cfg.SOLVER.ACCUMULATION_STEPS = steps
    cfg.SSOD.LABELED_TO_UNLABELED = ratio
    assert images_per_pass(cfg, world_size) == expected
    cfg.SSOD.ENABLED = False
    assert images_per_pass(cfg, world_size) == (sum(expected), 0)


def test_the_best_metric_is_the_teachers_on_the_first_test_set() -> None:
    cfg = tiny_cfg(**{"DATASETS.TEST": ("a",)})
    assert best_metric_name(cfg) == "teacher/bbox/AP"
    cfg.DATASETS.TEST = ("a", "b")
    assert best_metric_name(cfg) == "teacher/a/bbox/AP"
    cfg.SSOD.EVAL_MODEL = "student"
    assert best_metric_name(cfg) == "student/a/bbox/AP"
    cfg.DATASETS.TEST = ()
    assert best_metric_name(cfg) is None


def distance(model: nn.Module, before: list[torch.Tensor]) -> float:
    """Norm of the change of all parameters together."""
    pairs = zip(model.parameters(), before, strict=True)
    return float(torch.sqrt(sum(((p.detach() - b) ** 2).sum() for p, b in pairs)))


@pytest.mark.parametrize(("scale", "clipped"), [(100.0, True), (1e-3, False)])
def test_full_model_clips_the_norm_of_all_gradients_together(scale: float, clipped: bool) -> None:
    cfg = tiny_cfg(
        **{
            "SOLVER.CLIP_GRADIENTS.ENABLED": True,
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 5.0,
            "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
            "SOLVER.BASE_LR": 0.01,
            "SOLVER.WEIGHT_DECAY": 0.0,
            "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        }
    )
    model = tiny_model(cfg)
    optimizer = SSODTrainer.build_optimizer(cfg, model)
    generator = torch.Generator().manual_seed(0)
    norm = 0.0
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
        norm += float((parameter.grad**2).sum())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    expected = 5.0 if clipped else norm**0.5
    assert distance(model, before) == pytest.approx(0.01 * expected, rel=1e-2)


def test_detectron2s_own_clipping_still_works() -> None:
    cfg = tiny_cfg(
        **{
            "SOLVER.CLIP_GRADIENTS.ENABLED": True,
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.5,
            "SOLVER.BASE_LR": 1.0,
            "SOLVER.WEIGHT_DECAY": 0.0,
        }
    )
    model = nn.Linear(3, 2)
    optimizer = SSODTrainer.build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    assert distance(model, before) == pytest.approx(0.5 * 8**0.5, rel=1e-5)
