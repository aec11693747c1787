from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.checkpoints.reading import load_arrays
from dre_ssod.errors import UntrustedFileError

ARRAYS = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "none": np.empty((0, 4), dtype=np.int64),
    "one": np.array(2.5),
    "flags": np.array([True, False]),
    "half": np.array([1.5], dtype=np.float16),
    "big endian": np.array([1, 2], dtype=">i4"),
    "names": np.array(["a", "bc"]),
}


def load(data: bytes) -> Any:
    return load_arrays(io.BytesIO(data), "file.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_containers_come_back(protocol: int) -> None:
    content = {
        "model": OrderedDict(ARRAYS),
        "__author__": "someone",
        "rest": [1, 2.5, None, True, (b"\x00\xff", "é"), {3, 4}, np.float32(7), 1 + 2j],
    }
    found = load(pickle.dumps(content, protocol))
    assert found["__author__"] == "someone"
    assert found["rest"] == content["rest"]
    for name, array in ARRAYS.items():
        # The same but for the order of bytes, which NumPy may change.
        assert found["model"][name].dtype.str[1:] == array.dtype.str[1:]
        np.testing.assert_array_equal(found["model"][name], array)


def test_both_names_of_numpys_core_are_known() -> None:
    new = pickle.dumps(ARRAYS["floats"], 2)
    assert b"numpy._core.multiarray" in new
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(load(old), ARRAYS["floats"])


def test_a_python_2_pickle_is_read() -> None:
    # {'w': np.array([1.], '<f4')} as Python 2 spells it: texts are bytes, one byte a character.
    data = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x01\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x04\x00\x00\x80?tbs."
    )
    assert load(data) == {"w": np.float32(1.0)}


class Attack:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    created = tmp_path / "created"
    attacks = [
        Attack(os.system, f"touch {created}"),
        Attack(eval, f"open({str(created)!r}, 'w')"),
        Attack(open, str(created), "w"),
        Attack(np.save, str(created), 1),
        Attack(getattr, np.ndarray, "tofile"),
    ]
    for attack in attacks:
        data = pickle.dumps({"model": {"w": ARRAYS["floats"]}, "x": [attack]}, protocol)
        with pytest.raises(
            UntrustedFileError, match=r"file\.pkl .* asks for .*Nothing of it was run"
        ):
            load(data)
        assert not list(tmp_path.iterdir())


def test_parts_of_what_is_known_are_not() -> None:
    """Dotted names, which newer pickles may hold, lead from an array to its methods."""
    data = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    assert "ndarray.tofile" in str(list(pickletools.genops(data)))
    with pytest.raises(UntrustedFileError, match=r"asks for numpy\.ndarray\.tofile"):
        load(data)


def test_constructors_themselves_and_python_objects_are_refused() -> None:
    for content in (np.ndarray, {"a": [OrderedDict]}):
        with pytest.raises(UntrustedFileError, match="itself"):
            load(pickle.dumps(content))
    with pytest.raises(UntrustedFileError, match="array of Python objects"):
        load(pickle.dumps([np.array([{}, 1], dtype=object)]))


def test_a_pickle_that_holds_itself_is_read() -> None:
    content: list[Any] = [1]
    content.append(content)
    found = load(pickle.dumps(content))
    assert found[1] is found


@settings(deadline=None)
@given(data=st.binary(max_size=40))
def test_rubbish_is_an_error_of_its_own(data: bytes) -> None:
    with contextlib.suppress(UntrustedFileError):
        load(data)


@settings(deadline=None)
@given(cut=st.integers(0, 400), position=st.integers(0, 400), value=st.integers(0, 255))
def test_damaged_pickles_are_errors_of_their_own(cut: int, position: int, value: int) -> None:
    data = bytearray(pickle.dumps({"model": {"w": ARRAYS["floats"]}}, 4))
    data[position % len(data)] = value
    for changed in (bytes(data), bytes(data[: cut % len(data)])):
        with contextlib.suppress(UntrustedFileError):
            load(changed)
