"""Runs are compared on the same images and labels alone. Pictures: the tests of the tools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from dre_ssod.errors import ConfigError
from dre_ssod.report.comparison import draw_comparison
from dre_ssod.report.examined import ExaminedRun, ExaminedSet
from tests.report.test_gallery import with_mistakes


def run_on(part: ExaminedSet) -> ExaminedRun:
    return ExaminedRun(cast(Any, None), "teacher", 9, {part.name: part}, None, [])


def test_sets_of_one_name_and_other_content_are_refused() -> None:
    part = with_mistakes([])
    runs = {"before": run_on(part), "after": run_on(replace(part, content="other"))}
    with pytest.raises(ConfigError, match=r"not the same.*\(before: set, after: set\)"):
        draw_comparison(runs, 1)
