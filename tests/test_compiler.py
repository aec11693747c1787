"""The compiler's module is stood in for while torchvision is imported, as any other could be."""

from __future__ import annotations

import importlib
import sys

import pytest

from dre_ssod import compiler


def test_the_module_is_imported_once_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_ASKED_FOR", "colorsys")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with compiler.compiler_later():
        from colorsys import rgb_to_hsv
    assert "colorsys" not in sys.modules
    assert rgb_to_hsv(1.0, 1.0, 1.0) == (0.0, 0.0, 1.0)
    true = sys.modules["colorsys"]
    with compiler.compiler_later():
        assert sys.modules["colorsys"] is true
    assert sys.modules["colorsys"] is true


def test_its_package_gets_the_true_module_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("wsgiref")
    monkeypatch.setattr(compiler, "_ASKED_FOR", "wsgiref.util")
    monkeypatch.delitem(sys.modules, "wsgiref.util", raising=False)
    with compiler.compiler_later():
        from wsgiref.util import FileWrapper
    assert FileWrapper is sys.modules["wsgiref.util"].FileWrapper


def test_torchvision_asks_the_true_one() -> None:
    roi_align = importlib.import_module("torchvision.ops.roi_align")
    assert roi_align.is_compile_supported("cpu") in (False, True)
    assert "torch._dynamo" in sys.modules
