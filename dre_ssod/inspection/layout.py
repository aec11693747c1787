"""Pictures beside and below each other, with captions and a scale of colors.

Pictures are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import Colormap
from PIL import Image, ImageDraw, ImageFont

from dre_ssod.inspection.canvas import RGBImage, check_image, magnification

CAPTION_SIZE = 18
NOTE_SIZE = 17
LINE_HEIGHT = 24
GAP = 8
BAR_SIZE = (300, 14)
"""(width, height) of a color scale, in pixels."""
INK = "#202020"


def reduced(image: RGBImage, longest: int) -> tuple[RGBImage, float]:
    """A picture whose sides have at most ``longest`` pixels, and by what they were multiplied."""
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    if scale == 1.0:
        return image, scale
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def side_by_side(panels: Sequence[tuple[str, RGBImage]]) -> RGBImage:
    """Put pictures beside each other on white, each below its caption.

    Small pictures are magnified as :func:`dre_ssod.inspection.canvas.draw_items` does, then all are
    enlarged to the height of the tallest. A column is as wide as its picture or its caption,
    whichever is wider.

    Args:
        panels: (caption, (H, W, 3) uint8), from left to right.

    Raises:
        ValueError: if there is no panel or one is no image.
    """
    if not panels:
        raise ValueError("there are no panels; give at least one (caption, image)")
    for _, image in panels:
        check_image(image)
    heights = [image.shape[0] * magnification(*image.shape[:2]) for _, image in panels]
    font = _font(CAPTION_SIZE)
    columns = [_column(caption, image, max(heights), font) for caption, image in panels]
    gap = np.full((len(columns[0]), GAP, 3), 255, dtype=np.uint8)
    parts = [gap]
    for column in columns:
        parts += [column, gap]
    return np.concatenate(parts, axis=1)


def stack(rows: Sequence[RGBImage]) -> RGBImage:
    """Put pictures below each other, flush left on white.

    Raises:
        ValueError: if there is no row or one is no image.
    """
    if not rows:
        raise ValueError("there are no rows; give at least one picture")
    for row in rows:
        check_image(row)
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    return np.concatenate(padded, axis=0)


def note(lines: Sequence[str]) -> RGBImage:
    """Lines of text on white."""
    font = _font(NOTE_SIZE)
    longest = max((font.getlength(line) for line in lines), default=0.0)
    size = (int(longest) + 3 * GAP, LINE_HEIGHT * len(lines) + 2 * GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((GAP, GAP + LINE_HEIGHT * number), line, fill=INK, font=font)
    return np.asarray(canvas)


def color_scale(label: str, colors: Colormap, most: float = 1.0) -> RGBImage:
    """A strip with the colors of 0 to ``most``, after the label of what they stand for."""
    font = _font(NOTE_SIZE)
    width, height = BAR_SIZE
    ramp = (colors(np.linspace(0, 1, width))[:, :3] * 255).round().astype(np.uint8)
    bar = np.ascontiguousarray(np.broadcast_to(ramp, (height, width, 3)))
    start = int(2 * GAP + font.getlength(f"{label}   0"))
    strip = Image.new("RGB", (start + width + 4 * GAP, height + 2 * GAP), "white")
    strip.paste(Image.fromarray(bar), (start, GAP))
    draw = ImageDraw.Draw(strip)
    for x, text in ((GAP, f"{label}   0"), (start + width + GAP, f"{most:.3g}")):
        draw.text((x, GAP + height / 2), text, fill=INK, font=font, anchor="lm")
    return np.asarray(strip)


def _column(caption: str, image: RGBImage, height: int, font: ImageFont.FreeTypeFont) -> RGBImage:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    grows_evenly = height % image.shape[0] == 0
    resized = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_NEAREST if grows_evenly else cv2.INTER_CUBIC
    )
    left, _, right, _ = font.getbbox(caption)
    column_width = max(width, int(np.ceil(right - left)))
    top = CAPTION_SIZE + 2 * GAP
    canvas = Image.new("RGB", (column_width, top + height + GAP), "white")
    canvas.paste(Image.fromarray(resized), ((column_width - width) // 2, top))
    position = (column_width / 2, top / 2)
    ImageDraw.Draw(canvas).text(position, caption, fill=INK, font=font, anchor="mm")
    return np.asarray(canvas)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
