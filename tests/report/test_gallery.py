"""Which images are shown, and how large confusions are told."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from dre_ssod.report import page
from dre_ssod.report.examined import ExaminedSet, Precision
from dre_ssod.report.gallery import choose
from dre_ssod.report.mistakes import Judged, Mistake
from dre_ssod.report.page import MOST_CLASSES, confusion_of, number

NOTHING = Instances(
    (8, 8),
    pred_boxes=Boxes(torch.zeros(0, 4)),
    pred_classes=torch.zeros(0, dtype=torch.int64),
    scores=torch.zeros(0),
)


def with_mistakes(*images: list[tuple[str, int]]) -> ExaminedSet:
    """A set with these mistakes, kind and class, in its images."""
    nan = np.full(3, np.nan)
    return ExaminedSet(
        name="set",
        content="",
        class_names=["a", "b", "c"],
        records=[{}] * len(images),
        precision=Precision((0.0, 0.0, 0.0), nan, nan, np.zeros((101, 3))),
        lowest_score=0.5,
        judged=[
            Judged([], [], NOTHING, [Mistake(kind, index) for kind, index in image])
            for image in images
        ],
    )


def test_every_kind_of_every_class_is_shown_before_the_second_of_any() -> None:
    many = [("missed", 0)] * 5
    part = with_mistakes(many, many[:4], many[:3], [("double", 1)], [("invented", 2)], [])
    assert choose([part], 3) == [0, 3, 4]
    # Then the next of the kinds that have more; images without a mistake are never shown.
    assert choose([part], 4) == [0, 1, 3, 4]
    assert choose([part], 99) == [0, 1, 2, 3, 4]


def test_mistakes_of_all_runs_count_and_no_image_is_shown_twice() -> None:
    one = with_mistakes([("missed", 0)], [("missed", 0)])
    other = with_mistakes([], [("missed", 0), ("double", 0)])
    assert choose([one, other], 1) == [1]
    assert choose([one, other], 9) == [1, 0]


def test_nothing_is_shown_where_nothing_is_wrong_or_wanted() -> None:
    assert choose([with_mistakes([], [])], 5) == []
    assert choose([with_mistakes([("missed", 0)])], 0) == []


@pytest.mark.parametrize(
    ("most", "mistaken", "shown"),
    [(1, (3, 3), [1, 0]), (4, (3, 3), [2, 2]), (5, (3, 3), [3, 2]), (4, (1, 5), [1, 3])],
)
def test_no_more_images_are_shown_of_all_sets_than_wanted(
    monkeypatch: pytest.MonkeyPatch, most: int, mistaken: tuple[int, int], shown: list[int]
) -> None:
    """What one set has no mistakes for goes to the next."""
    monkeypatch.setattr(page, "draw_cases", lambda tested, numbers, runs: numbers)
    parts = [
        replace(with_mistakes(*[[("missed", 0)]] * count), name=f"set {count} {number}")
        for number, count in enumerate(mistaken)
    ]
    examined: Any = [SimpleNamespace(sets={part.name: part for part in parts})]
    runs: Any = [SimpleNamespace(name="run")]
    assert [len(part["cases"]) for part in page._sets(runs, examined, most)] == shown


def test_of_many_classes_the_most_frequent_confusions_are_told() -> None:
    classes = [f"class {n}" for n in range(MOST_CLASSES + 1)]
    found = Instances((8, 8), pred_classes=torch.tensor([5, 5, 6]))
    mistakes = [Mistake("confused", k, n, n) for n, k in enumerate((1, 1, 2))]
    part: Any = with_mistakes([])
    judged = [Judged([], [], found, [*mistakes, Mistake("missed", 3, object=3)])]
    told = confusion_of(classes, judged)
    assert told == {"pairs": [(2, "class 1", "class 5"), (1, "class 2", "class 6")]}
    table = confusion_of(part.class_names, part.judged)
    assert table["columns"] == ["a", "b", "c", "not found"]
    assert [row for row, _ in table["table"]] == ["a", "b", "c", "nothing"]


def test_numbers_that_are_none_are_a_dash() -> None:
    assert [number(value) for value in (1.005, 3, "x", None, float("nan"))] == [
        *("1.00", "3", "x", "–", "–")
    ]
