"""What is said after the last evaluation."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from detectron2.utils.events import EventStorage

from dre_ssod.engine.hooks.evaluation import LaggingTeacher

pytestmark = pytest.mark.usefixtures("heard_loggers")

METRIC = "teacher/voc://x/bbox/AP"


def warnings(
    scores: dict[str, float], caplog: pytest.LogCaptureFixture, iteration: int = 9
) -> list[str]:
    """What the hook says after an iteration, from 0, of a run of ten."""
    hook = LaggingTeacher(METRIC)
    with EventStorage() as storage:
        for model, score in scores.items():
            storage.put_scalar(METRIC.replace("teacher", model), score)
        trainer: Any = SimpleNamespace(iter=iteration, max_iter=10, storage=storage)
        hook.trainer = trainer
        hook.after_step()
    return [record.getMessage() for record in caplog.records]


def test_a_teacher_well_below_its_student_is_told_with_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    [message] = warnings({"teacher": 30.2, "student": 36.8}, caplog)
    assert "has 30.2 AP, 6.6 less than its student" in message
    for advice in ("SSOD.EMA.DECAY", "SSOD.EMA.HORIZON", "--model student", "10 iterations"):
        assert advice in message


@pytest.mark.parametrize(
    ("scores", "iteration"),
    [
        ({"teacher": 36.0, "student": 36.8}, 9),
        ({"teacher": 38.0, "student": 30.0}, 9),
        ({"teacher": 0.5, "student": math.nan}, 9),
        ({"teacher": 30.2}, 9),
        # Halfway a slow average may still catch up.
        ({"teacher": 30.2, "student": 36.8}, 4),
    ],
)
def test_else_nothing_is_said(
    scores: dict[str, float], iteration: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert not warnings(scores, caplog, iteration)
