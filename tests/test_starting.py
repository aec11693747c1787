"""The compiler's module is stood in for while torchvision is imported, and the collector rests."""

from __future__ import annotations

import gc
import importlib
import sys

import pytest

from dre_ssod import starting


def test_the_module_is_imported_once_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_ASKED_FOR", "colorsys")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with starting.compiler_later():
        from colorsys import rgb_to_hsv
    assert "colorsys" not in sys.modules
    assert rgb_to_hsv(1.0, 1.0, 1.0) == (0.0, 0.0, 1.0)
    true = sys.modules["colorsys"]
    with starting.compiler_later():
        assert sys.modules["colorsys"] is true
    assert sys.modules["colorsys"] is true


def test_its_package_gets_the_true_module_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("wsgiref")
    monkeypatch.setattr(starting, "_ASKED_FOR", "wsgiref.util")
    monkeypatch.delitem(sys.modules, "wsgiref.util", raising=False)
    with starting.compiler_later():
        from wsgiref.util import FileWrapper
    assert FileWrapper is sys.modules["wsgiref.util"].FileWrapper


def test_torchvision_asks_the_true_one() -> None:
    roi_align = importlib.import_module("torchvision.ops.roi_align")
    assert roi_align.is_compile_supported("cpu") in (False, True)
    assert "torch._dynamo" in sys.modules


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_before_also_after_an_import_that_failed(enabled: bool) -> None:
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with starting.collector_resting():
            assert not gc.isenabled()
        with pytest.raises(ModuleNotFoundError), starting.collector_resting():
            importlib.import_module("dre_ssod.nothing")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
