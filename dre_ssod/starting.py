"""What makes a program start sooner, and each process that loads images by spawn or forkserver.

The import of PyTorch's compiler, which torchvision asks for at each start, is put off: 2 of 5
seconds. Whatever needs the compiler, as an optimizer does, imports it then. And the garbage
collector rests meanwhile: a fifth of an import of PyTorch and Detectron2 went into looking through
their million objects, all of which stay.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_ASKED_FOR = "torch._dynamo.utils"


@contextmanager
def collector_resting() -> Iterator[None]:
    """What is allocated meanwhile is not looked through for garbage; afterwards it is as before."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def compiler_later() -> Iterator[None]:
    """What is imported meanwhile gets a stand-in for the compiler's module, which imports the true
    one when it is used; torchvision uses it where RoIAlign must be deterministic."""
    if _ASKED_FOR in sys.modules:
        yield
        return
    sys.modules[_ASKED_FOR] = stand_in = _StandIn(_ASKED_FOR)
    try:
        yield
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    def leave(self) -> None:
        """Make room for the true module."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        if self.__name__.rpartition(".")[0] in sys.modules:
            # Its own package asks: the compiler is being imported after all.
            return self._true(name)
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **options: self._true(name)(*args, **options)

    def _true(self, name: str) -> Any:
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)
