"""The page of results is what the kept results say."""

from __future__ import annotations

from docs.write_comparisons import PAGE, RESULTS, TABLES, write
from dre_ssod.tables.definition import read_table
from dre_ssod.tables.filed import find_results, read_results
from tests import ROOT


def test_the_page_is_current_and_has_all_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == write(), "run python -m docs.write_comparisons"
    assert {path.stem for path in (ROOT / "docs/tables").glob("*.yaml")} == set(TABLES)


def test_each_result_is_in_a_table() -> None:
    """What none of them shows is neither told nor missed."""
    results = read_results(RESULTS)
    shown: set[int] = set()
    for name in TABLES:
        cells = read_table(ROOT / "docs" / "tables" / f"{name}.yaml").cells()
        shown |= {id(result) for result in find_results(results, cells).values()}
    files = sorted(RESULTS.glob("*.json"))
    others = [path.name for path, r in zip(files, results, strict=True) if id(r) not in shown]
    assert others == []


def test_results_are_of_commits_without_changes() -> None:
    """So that anybody can make them again."""
    for result in read_results(RESULTS):
        assert result.origin["git"]["dirty"] is False
