"""A cache of its own for each test of stores."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRE_SSOD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("dre_ssod.stores.objects.PAUSE", 0.0)
    return tmp_path / "cache"
