"""Which images are shown of which runs. Pictures themselves: the tests of the tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from dre_ssod.errors import ConfigError
from dre_ssod.report.comparison import draw_comparison
from dre_ssod.report.examined import ExaminedRun, ExaminedSet
from dre_ssod.report.mistakes import judge
from tests.inspection.test_found import A, B, C, detections, find, truth
from tests.report.test_gallery import with_mistakes

OBJECTS = truth((0, A), (0, B), (0, C))


def run_on(part: ExaminedSet) -> ExaminedRun:
    return ExaminedRun(cast(Any, None), "teacher", 9, {part.name: part}, None, [])


def run_that_finds(*images: Sequence[list[float]]) -> ExaminedRun:
    """A run on images "0", "1" ..., each with all of the objects, of which it finds some."""
    found = [find(detections(*((0, 0.9, box) for box in boxes)), OBJECTS) for boxes in images]
    part = with_mistakes(*([] for _ in images))
    records = [{"file_name": str(number)} for number in range(len(images))]
    return run_on(replace(part, records=records, judged=[judge(f) for f in found]))


def test_sets_of_one_name_and_other_content_are_refused() -> None:
    part = with_mistakes([])
    runs = {"before": run_on(part), "after": run_on(replace(part, content="other"))}
    with pytest.raises(ConfigError, match=r"not the same.*\(before: set, after: set\)"):
        draw_comparison(runs, 1)


def test_images_with_the_most_objects_more_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def read_image(name: str, image_format: str) -> Any:
        read.append(name)
        return np.zeros((64, 96, 3), np.uint8)

    monkeypatch.setattr("dre_ssod.report.comparison.read_image", read_image)
    # Of the first image it finds two others than before, of the last all.
    before = run_that_finds([C], [A], [A], [])
    after = run_that_finds([A, B], [A], [A, B], [A, B, C])
    for runs, shown in ((before, after), ["3", "0"]), ((after, before), ["1", "0"]):
        read.clear()
        draw_comparison(dict(zip(("left", "right"), runs, strict=True)), 2)
        assert read == shown
    read.clear()
    draw_comparison({"alone": after}, 2)
    assert read == ["0", "1"]
