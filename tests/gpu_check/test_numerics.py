"""That the comparisons of the check see what they are there for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dre_ssod.benchmark.report import Goal
from dre_ssod.gpu_check.findings import Setting
from dre_ssod.gpu_check.numerics import Choices, _compare, pooled_features, without_tf32
from dre_ssod.gpu_check.scratch import sample_cfg
from dre_ssod.gpu_check.speed import covered
from tests import ROOT
from tests.factories import pseudo_labels


def goals(findings: object) -> dict[str, Goal]:
    return {f.name: f for f in findings if isinstance(f, Goal)}  # type: ignore[attr-defined]


def test_a_loss_and_a_gradient_that_are_off_are_seen() -> None:
    expected = ({"loss": torch.tensor(2.0)}, {"weight": torch.tensor([3.0, 4.0])})
    same = goals(_compare("float32", expected, expected))
    assert all(goal.met for goal in same.values())
    off = ({"loss": torch.tensor(2.002, dtype=torch.float64)}, {"weight": torch.tensor([3.0, 4.1])})
    found = goals(_compare("float32", off, expected))
    assert found["float32: largest relative difference of a loss"].value == pytest.approx(
        0.001, rel=1e-4
    )
    gradient = found["float32: relative difference of the gradient"]
    assert gradient.value == pytest.approx(0.02, rel=1e-4)
    assert not gradient.met
    lost = goals(_compare("float32", (expected[0], {}), expected))
    assert not lost["float32: relative difference of the gradient"].met


def test_what_the_first_model_chose_the_second_one_goes_on_with() -> None:
    class Chooser(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.count = count

        def choose(self) -> list[object]:
            return [pseudo_labels()[: self.count]]

    choices = Choices()
    first, second = Chooser(2), Chooser(1)
    choices.fix(first, "choose", "labels")
    assert [len(labels) for labels in first.choose()] == [2]  # type: ignore[arg-type]
    choices.fix(second, "choose", "labels")
    assert [len(labels) for labels in second.choose()] == [2]  # type: ignore[arg-type]


def test_pooled_features_far_from_the_origin(tmp_path: Path) -> None:
    found = goals(pooled_features(Setting("cpu", True, ROOT, tmp_path)))
    assert len(found) == 24
    assert all(goal.met for goal in found.values())
    assert found["float32: features from 1024 on, over the largest"].value == 0.0
    for name in ("bfloat16", "float16"):
        assert found[f"{name}: gradient from 1024 on, over the largest"].value > 0.0


def test_spans_are_counted_once_where_they_overlap() -> None:
    assert covered([(0, 10), (5, 12), (20, 21), (6, 7)]) == 13
    assert covered([]) == 0


def test_a_config_that_is_read_without_tf32_does_not_bring_it_back(tmp_path: Path) -> None:
    with without_tf32():
        sample_cfg(Setting("cpu", True, ROOT, tmp_path))
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
