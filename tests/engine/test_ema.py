from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dre_ssod.engine.ema import ModelEMA
from dre_ssod.methods.parts.schedules import ema_decay


class Net(nn.Module):
    """Parameters, a floating buffer, an integer buffer and a buffer that is not saved."""

    scale: Tensor
    steps: Tensor
    cache: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.fc = nn.Linear(3, 2)
        for parameter in self.fc.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.register_buffer("scale", torch.randn(4, generator=generator))
        self.register_buffer("steps", torch.tensor(seed))
        self.register_buffer("cache", torch.randn(2, generator=generator), persistent=False)


def floating(model: nn.Module) -> dict[str, Tensor]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.detach().clone() for name, t in tensors if t.is_floating_point()}


def set_to(model: nn.Module, other: nn.Module) -> None:
    """Change a model in place, as an optimizer does."""
    with torch.no_grad():
        for mine, theirs in zip(
            [*model.parameters(), *model.buffers()],
            [*other.parameters(), *other.buffers()],
            strict=True,
        ):
            mine.copy_(theirs)


def test_the_teacher_is_the_weighted_sum_of_all_students() -> None:
    """After students s_1 ... s_n: prod(d_i) t_0 + sum_k (1 - d_k) prod_{i > k} d_i s_k."""
    teacher, student = Net(100), Net(101)
    start = floating(teacher)
    ema = ModelEMA(teacher, student)
    decays = [0.3, 0.9, 0.0, 0.75, 0.999, 0.5]
    students = [Net(seed) for seed in range(len(decays))]
    for decay, state in zip(decays, students, strict=True):
        set_to(student, state)
        ema.update(decay)
    for name, value in floating(teacher).items():
        expected = start[name].double() * torch.tensor(decays).double().prod()
        for number, (decay, state) in enumerate(zip(decays, students, strict=True)):
            rest = torch.tensor(decays[number + 1 :], dtype=torch.float64).prod()
            expected += (1.0 - decay) * rest * floating(state)[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_below_its_bound_the_teacher_is_the_plain_mean() -> None:
    teacher, student = Net(100), Net(101)
    ema = ModelEMA(teacher, student)
    students = [Net(seed) for seed in range(7)]
    for step, state in enumerate(students):
        set_to(student, state)
        ema.update(ema_decay(step, 0.999))
    for name, value in floating(teacher).items():
        mean = torch.stack([floating(state)[name] for state in students]).mean(dim=0)
        torch.testing.assert_close(value, mean, rtol=1e-5, atol=1e-6)


def test_the_first_step_copies_the_student() -> None:
    teacher, student = Net(0), Net(1)
    ModelEMA(teacher, student).update(ema_decay(0, 0.999))
    for name, value in floating(teacher).items():
        assert torch.equal(value, floating(student)[name])


def test_integer_buffers_are_copied() -> None:
    teacher, student = Net(3), Net(9)
    ModelEMA(teacher, student).update(0.999)
    assert teacher.steps.item() == 9
    assert teacher.steps.dtype == torch.int64


def test_the_student_and_the_graph_are_left_alone() -> None:
    teacher, student = Net(0), Net(1)
    before = copy.deepcopy(student.state_dict())
    parameters = list(map(id, teacher.parameters()))
    ModelEMA(teacher, student).update(0.5)
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name])
    # In place: an optimizer, a checkpointer or DDP that knows the tensors still does.
    assert list(map(id, teacher.parameters())) == parameters
    assert all(p.grad_fn is None and p.requires_grad for p in student.parameters())


def test_models_with_different_tensors_are_refused() -> None:
    other = Net(0)
    other.register_buffer("extra", torch.zeros(1))
    with pytest.raises(ValueError, match=r"different tensors: \['extra'\]"):
        ModelEMA(Net(0), other)
    with pytest.raises(ValueError, match=r"different tensors: \['extra'\]"):
        ModelEMA(other, Net(0))
