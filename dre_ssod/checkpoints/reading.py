"""Reads pickles of NumPy arrays without running what they ask for.

Detectron2's model zoo hands out ``.pkl`` files. A pickle names functions to call while it is read;
only those that rebuild arrays are known here, and the names are looked up in a table instead of
being imported.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from dre_ssod.errors import UntrustedFileError


class _Latin1Bytes:
    """Stands for ``_codecs.encode``, by which Python 2 pickles spell their bytes.

    Not a function: a pickle may set attributes of what it names, and this has none.
    """

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
        return text.encode("latin1")


# What NumPy itself names for an array, a scalar and, in protocol 5, an array.
_REBUILDERS: tuple[Any, ...] = (
    np.zeros(0).__reduce__()[0],
    np.float64(0).__reduce__()[0],
    np.zeros(0).__reduce_ex__(5)[0],
)
# NumPy 2 renamed numpy.core to numpy._core; Python 3 renamed Python 2's __builtin__.
_CONSTRUCTORS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("_codecs", "encode"): _Latin1Bytes(),
    **{
        (f"numpy.{core}.{rebuild.__module__.rpartition('.')[2]}", rebuild.__name__): rebuild
        for core in ("core", "_core")
        for rebuild in _REBUILDERS
    },
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytearray, bytes, complex)
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            found: Callable[..., Any] = _CONSTRUCTORS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None
        return found


def load_arrays(file: IO[bytes], name: str | Path) -> Any:
    """The content of a pickle that is made of NumPy arrays and plain containers.

    Args:
        file: opened for reading; Python 2 pickles work too.
        name: of the file, for messages.

    Raises:
        UntrustedFileError: if it is damaged, or asks for anything else. Nothing was run.
    """
    try:
        content = _ArrayUnpickler(file, encoding="latin1").load()
        _check(content)
    # A broken pickle may raise nearly anything on its way; MemoryError for absurd lengths.
    except Exception as error:
        raise UntrustedFileError(
            f"{name} is not read: {error or type(error).__name__}. A .pkl checkpoint may only hold "
            "NumPy arrays, numbers, texts and plain containers; it is damaged or would run code. "
            "Nothing of it was run."
        ) from error
    return content


def _check(content: Any) -> None:
    """Refuse arrays of Python objects, at any depth; the pickle may refer to itself."""
    waiting, seen = [content], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        elif isinstance(item, np.ndarray | np.generic) and item.dtype.hasobject:
            raise pickle.UnpicklingError("it holds an array of Python objects")
        elif isinstance(item, type) or callable(item):
            raise pickle.UnpicklingError(f"it holds {item!r} itself")
