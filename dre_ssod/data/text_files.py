"""Text, JSON and XML files of datasets, read whole; errors name the file."""

from __future__ import annotations

import json
from typing import Any, TypeGuard
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring as parse_xml

from dre_ssod.errors import SourceError
from dre_ssod.stores import Place, StorePath

_LARGEST = 2**63
"""JSON may hold integers that no other number type can."""


def read_bytes(path: Place) -> bytes:
    """The content of a file.

    Raises:
        SourceError: if it cannot be read, or is none that ends, such as a pipe or a device.
    """
    try:
        if not isinstance(path, StorePath) and not path.is_file():
            path.stat()
            raise SourceError(f"{path}: cannot be read: it is no regular file")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error


def read_text(path: Place) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        SourceError: as :func:`read_bytes`, and if it is not UTF-8.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Place) -> list[str]:
    """Lines of a text file, which only line feeds separate.

    Raises:
        SourceError: as :func:`read_text`.
    """
    return read_text(path).split("\n")


def read_json(path: Place) -> Any:
    """The value that a JSON file holds; NaN and infinite numbers are let through.

    Raises:
        SourceError: if it cannot be read, is not JSON, or is nested too deep.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise SourceError(f"{path}: cannot be read: it is nested too deep") from error
    except ValueError as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error


def read_xml(path: Place) -> Element:
    """The root of an XML file without entities.

    Raises:
        SourceError: if it cannot be read, or is no such file.
    """
    content = read_bytes(path)
    try:
        root = parse_xml(content)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise SourceError(f"{path}: cannot be read as XML: {error}") from error
    assert isinstance(root, Element)
    return root


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a value of a file is an integer of 64 bits; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST


def is_number(value: Any) -> bool:
    """Whether a value of a file is an integer, or any floating-point number."""
    return isinstance(value, float) or is_integer(value)
