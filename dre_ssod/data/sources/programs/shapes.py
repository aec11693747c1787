"""The box around a shape that is no upright rectangle, and the numbers that a file gives of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dre_ssod.data.records import Corners
from dre_ssod.data.text_files import is_number
from dre_ssod.errors import SourceError


def around_points(points: Sequence[Sequence[float]]) -> Corners:
    """(x1, y1, x2, y2) of the (x, y)."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    return min(xs), min(ys), max(xs), max(ys)


def around_ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Corners:
    """Around an ellipse with this center and these radii, turned by an angle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    wide, high = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return x - wide, y - high, x + wide, y + high


def around_turned(
    x: float, y: float, width: float, height: float, degrees: float, about: tuple[float, float]
) -> Corners:
    """Around a rectangle that is turned clockwise about a point.

    Args:
        x, y: the upper left corner before the turn.
        about: the point, as fractions of width and height from that corner.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    px, py = x + about[0] * width, y + about[1] * height
    points = [
        (px + (cx - px) * cos - (cy - py) * sin, py + (cx - px) * sin + (cy - py) * cos)
        for cx in (x, x + width)
        for cy in (y, y + height)
    ]
    return around_points(points)


def number_in(text: str | None, what: str, finite: bool = True) -> float:
    """The number that a text is.

    Args:
        what: whose text it is, for the message.
        finite: whether NaN and infinity are refused, too.

    Raises:
        SourceError: if it is none.
    """
    try:
        # Python takes 1_0 for a number.
        value = float((text or "").replace("_", "?"))
        valid = math.isfinite(value) or not finite
    except ValueError:
        value, valid = math.nan, False
    if not valid:
        kind = "finite number" if finite else "number"
        raise SourceError(f"{what} must be a {kind}, is {text!r:.40}")
    return value


def numbers(content: Any, keys: Sequence[str], where: str) -> list[float]:
    """The numbers under these keys of an object of a JSON file.

    Raises:
        SourceError: if one is missing or no number.
    """
    values: list[Any] = [content.get(k) if isinstance(content, dict) else None for k in keys]
    if not all(map(is_number, values)):
        raise SourceError(f"{where}: needs the numbers {', '.join(keys)}, has {content!r:.120}")
    return [float(value) for value in values]


def points_of(content: Any, where: str, fewest: int = 1) -> list[tuple[float, float]]:
    """The points of a JSON list of [x, y].

    Raises:
        SourceError: if it is none, or has fewer points.
    """
    valid = isinstance(content, list) and len(content) >= fewest
    if not valid or not all(
        isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in content
    ):
        raise SourceError(f"{where}: needs {fewest} points [x, y] or more, has {content!r:.120}")
    return [(float(x), float(y)) for x, y in content]
