"""The page about localization is what the kept analyses say."""

from __future__ import annotations

from docs.write_localization import ANALYSES, PAGE, write


def test_the_page_is_current() -> None:
    assert list(ANALYSES.glob("*.json"))
    assert PAGE.read_text(encoding="utf-8") == write(), "run python -m docs.write_localization"
