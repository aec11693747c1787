"""Boxes with labels and uncertainty bands on an image, by Detectron2's ``Visualizer``.

Images are (H, W, 3) uint8 RGB. Small ones come back magnified by a whole number, so that the labels
stay readable; boxes are given in pixels of the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from detectron2.utils.visualizer import Visualizer
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

RGBImage = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

READABLE_SIDE = 480
"""Long side in pixels that a smaller picture is magnified to, about."""
LINE_WIDTH = 1.44
"""In points, at any magnification: two pixels of line, and one of dark casing on either side."""
BAND_OPACITY = 0.45
BAND_SHARE = 0.1
"""Of a box's side, how far a band reaches to either side of an edge at most."""
LABEL_MARGIN = 3.0

# Bright colors that differ in hue or lightness from their neighbors; classes beyond repeat them.
PALETTE = (
    "#ff5a4f", "#35c4ff", "#ffd23f", "#5ee06a", "#d98bff", "#ff9a2e", "#3ff0d0", "#ff8fc7",
    "#b8e04a", "#8fa8ff", "#ffffff", "#e0b080",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One box to draw.

    Attributes:
        box: (x1, y1, x2, y2).
        color: of outline, band and label, as Matplotlib names it.
        label: "" for none.
        sigma: (4,) standard deviation of each edge, drawn as a band; None for none.
        dashed: whether the outline is.
        width: of the outline, in points.
    """

    box: FloatArray
    color: str
    label: str = ""
    sigma: FloatArray | None = None
    dashed: bool = False
    width: float = LINE_WIDTH


def class_color(index: int) -> str:
    """The color of a class, or of an object, by its index."""
    return PALETTE[index % len(PALETTE)]


def magnification(height: int, width: int) -> int:
    """The whole number by which an image is enlarged to be drawn on, at least 1."""
    return max(1, round(READABLE_SIDE / max(height, width)))


def draw_items(image: RGBImage, items: Sequence[Item], in_order: bool = False) -> RGBImage:
    """Draw boxes, then their labels, in the order given, where there is room.

    A translucent band reaches from one standard deviation outside each edge to one inside it, but
    no further than ``BAND_SHARE`` of the box.

    Args:
        image: (H, W, 3) uint8.
        items: boxes in pixels of the image.
        in_order: boxes later in the list cover earlier ones. Else small boxes cover large ones.

    Returns:
        (H * m, W * m, 3) uint8, where m is the :func:`magnification`.

    Raises:
        ValueError: if the image is none.
    """
    check_image(image)
    visualizer = Visualizer(image, scale=magnification(*image.shape[:2]))
    items = [replace(item, sigma=_band(item)) for item in items]
    ordered = items if in_order else sorted(items, key=lambda i: -_area(i.box))
    for item in ordered:
        if item.sigma is not None:
            _draw_band(visualizer, item.box, item.sigma, item.color)
        # Visualizer's own lines grow with its scale and would hide narrow bands.
        outline = PathPatch(
            Path(_corners(item.box), closed=True),
            fill=False,
            edgecolor=item.color,
            linewidth=item.width,
            linestyle="--" if item.dashed else "-",
            joinstyle="miter",
            path_effects=[withStroke(linewidth=2 * item.width, foreground="black")],
        )
        visualizer.output.ax.add_patch(outline)
    taken: list[FloatArray] = []
    for item in items:
        if item.label:
            taken.append(_place_label(visualizer, item, taken))
    drawn: RGBImage = visualizer.get_output().get_image()
    return drawn


def check_image(image: RGBImage) -> None:
    """Raise a ValueError unless ``image`` is (H, W, 3) uint8 with pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(
            f"an image must be (H, W, 3) uint8 in RGB order; got {image.shape} {image.dtype}"
        )


def _area(box: FloatArray) -> float:
    return float(np.prod(box[2:] - box[:2]))


def _band(item: Item) -> FloatArray | None:
    """(4,) how far the band of each edge reaches.

    Broad ones stop at a share of the box: what lies beyond says no more than "not sure", and would
    hide the picture.
    """
    if item.sigma is None:
        return None
    reach: FloatArray = np.minimum(item.sigma, BAND_SHARE * np.tile(item.box[2:] - item.box[:2], 2))
    return reach


def _draw_band(visualizer: Visualizer, box: FloatArray, sigma: FloatArray, color: str) -> None:
    """Fill the frame between the box one sigma larger and the box one sigma smaller."""
    outer = np.concatenate([box[:2] - sigma[:2], box[2:] + sigma[2:]])
    inner = np.concatenate([box[:2] + sigma[:2], box[2:] - sigma[2:]])
    path = Path(_corners(outer), closed=True)
    # Opposite edges whose bands meet leave nothing inside.
    if (inner[:2] < inner[2:]).all():
        # Run the other way round, which makes it a hole.
        path = Path.make_compound_path(path, Path(_corners(inner)[::-1], closed=True))
    band = PathPatch(path, facecolor=color, edgecolor="none", alpha=BAND_OPACITY)
    visualizer.output.ax.add_patch(band)


def _corners(box: FloatArray) -> FloatArray:
    """(5, 2) corners in turn, the first one again at the end."""
    x1, y1, x2, y2 = box
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)])


def _place_label(visualizer: Visualizer, item: Item, taken: list[FloatArray]) -> FloatArray:
    """Write a label at the first place by its box that is free; returns its frame in pixels."""
    visualizer.draw_text(item.label, (0, 0), color=item.color, horizontal_alignment="left")
    output = visualizer.output
    text = output.ax.texts[-1]
    # The name of a class may hold dollar signs.
    text.set_parse_math(False)
    extent = text.get_window_extent()
    width, height = (np.array([extent.width, extent.height]) + LABEL_MARGIN) / output.scale
    x1, y1, x2, y2 = item.box
    margin = np.zeros(4) if item.sigma is None else item.sigma
    places = [
        (x1, y1 - margin[1] - height),
        (x1, y2 + margin[3]),
        (x2 - width, y1 - margin[1] - height),
        (x2 - width, y2 + margin[3]),
        (x2 + margin[2], y1),
        (x1 - margin[0] - width, y1),
        (x1, y1),
    ]
    limit = np.maximum([output.width - width, output.height - height], 0)
    corners = np.clip(places, 0, limit)
    frames = np.concatenate([corners, corners + np.array([width, height])], axis=1)
    chosen: FloatArray = frames[np.argmin(_overlaps(frames, taken))]
    text.set_position((chosen[0], chosen[1]))
    return chosen


def _overlaps(frames: FloatArray, taken: list[FloatArray]) -> FloatArray:
    """(n,) area that each frame (n, 4) shares with those that are taken."""
    one, other = frames[:, None], np.reshape(taken, (1, -1, 4))
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    areas: FloatArray = np.maximum(sides, 0).prod(axis=2).sum(axis=1)
    return areas
