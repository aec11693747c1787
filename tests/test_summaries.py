"""What README and the page of results say in short is what the kept results say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from docs.write_comparisons import RESULTS
from docs.write_summaries import BLOCKS, CURVES, Tables, drawn_points, filled, page, rare_class
from dre_ssod.tables.filed import Result, read_results


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return read_results(RESULTS)


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.name)
def test_tables_in_short_are_current(path: Path, results: list[Result]) -> None:
    said = "run python -m docs.write_summaries"
    assert path.read_text(encoding="utf-8") == page(path, results), said


def test_the_picture_of_curves_is_current(results: list[Result]) -> None:
    with Image.open(CURVES) as picture:
        assert picture.info["Description"] == drawn_points(results)


def test_runs_of_another_gpu_are_not_called_those_of_an_h100(results: list[Result]) -> None:
    machine = {"device": "cuda", "gpu": "GPU X"}
    moved = [replace(r, origin={**r.origin, "machine": machine}) for r in results]
    text = rare_class(Tables(moved))
    assert "| GPU X |" in text
    assert "H100" not in text


def test_a_block_is_put_between_its_marks_alone() -> None:
    begin, end = "<!-- a, written by docs.write_summaries -->", "<!-- end of a -->"
    text = f"before\n{begin}\n\nold\n\n{end}\nafter\n"
    assert filled(text, "a", "new") == text.replace("old", "new")
    assert filled(filled(text, "a", "x"), "a", "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match=r"0 blocks .* b, written"):
        filled(text, "b", "new")
