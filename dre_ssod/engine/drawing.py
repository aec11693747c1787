"""Pictures of detections, of the uncertainty of their edges, and of ground truth.

Images are (H, W, 3) uint8 RGB. Small ones come back magnified by a whole number, so that the labels
stay readable; boxes are given in pixels of the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib import font_manager
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw, ImageFont

RGBImage = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

READABLE_SIDE = 480
"""Long side in pixels that a smaller picture is magnified to, about."""
LINE_WIDTH = 1.44
CASING_WIDTH = 1.44
"""In points, at any magnification: two pixels of line and one of dark casing on either side."""
BAND_OPACITY = 0.45
LABEL_MARGIN = 3.0
CAPTION_SIZE = 18
GAP = 8

# Bright colors that differ in hue or lightness from their neighbours; classes beyond repeat them.
PALETTE = (
    "#ff5a4f", "#35c4ff", "#ffd23f", "#5ee06a", "#d98bff", "#ff9a2e", "#3ff0d0", "#ff8fc7",
    "#b8e04a", "#8fa8ff", "#ffffff", "#e0b080",
)  # fmt: skip


@dataclass(frozen=True)
class _Item:
    """One box to draw: its frame (x1, y1, x2, y2), class, label and the sigma of its edges."""

    box: FloatArray
    class_index: int
    label: str
    sigma: FloatArray | None = None
    dashed: bool = False

    @property
    def color(self) -> str:
        return PALETTE[self.class_index % len(PALETTE)]


def magnification(height: int, width: int) -> int:
    """The whole number by which an image is enlarged to be drawn on, at least 1."""
    return max(1, round(READABLE_SIDE / max(height, width)))


def draw_detections(
    image_rgb: RGBImage, instances: Instances, class_names: Sequence[str]
) -> RGBImage:
    """Draw boxes coloured by class, labeled "class 0.93 q0.41" (score, s_loc).

    Where ``pred_boxes_sigma`` is present a translucent band reaches from one standard deviation
    outside each edge to one inside it: a broad band is an edge that the detector is unsure of.

    Args:
        image_rgb: (H, W, 3) uint8.
        instances: on any device, with ``pred_boxes``, ``pred_classes``, ``scores`` and, as far as
            the model has them, ``localization_quality`` (R,) and ``pred_boxes_sigma`` (R, 4).
        class_names: by class index.

    Returns:
        (H * m, W * m, 3) uint8, where m is the :func:`magnification`.

    Raises:
        ValueError: if the image is none, or not the size that the boxes belong to.
    """
    _check_frame(image_rgb, instances)
    instances = instances.to("cpu")
    boxes = instances.pred_boxes.tensor.detach().numpy()
    classes = instances.pred_classes.tolist()
    labels = [
        f"{_class_name(class_names, index)} {score:.2f}"
        for index, score in zip(classes, instances.scores.tolist(), strict=True)
    ]
    if instances.has("localization_quality"):
        quality = instances.localization_quality.tolist()
        labels = [f"{label} q{value:.2f}" for label, value in zip(labels, quality, strict=True)]
    sigma: Sequence[FloatArray | None] = [None] * len(boxes)
    if instances.has("pred_boxes_sigma"):
        sigma = list(instances.pred_boxes_sigma.detach().numpy())
    return _draw(image_rgb, list(map(_Item, boxes, classes, labels, sigma)))


def draw_ground_truth(
    image_rgb: RGBImage,
    objects: Sequence[dict[str, Any]] | Instances,
    class_names: Sequence[str],
) -> RGBImage:
    """Draw annotated boxes, coloured and labeled by class; crowd regions are dashed.

    Args:
        image_rgb: (H, W, 3) uint8.
        objects: annotations in Detectron2's format (``bbox``, ``bbox_mode``, ``category_id``), or
            ``Instances`` with ``gt_boxes`` and ``gt_classes``.
        class_names: by class index.

    Returns:
        as :func:`draw_detections`.

    Raises:
        ValueError: as :func:`draw_detections`.
    """
    if isinstance(objects, Instances):
        _check_frame(image_rgb, objects)
        boxes = list(objects.gt_boxes.tensor.detach().cpu().numpy())
        classes = objects.gt_classes.tolist()
        crowd = [False] * len(boxes)
    else:
        _check_image(image_rgb)
        boxes = [
            np.asarray(BoxMode.convert(list(o["bbox"]), o["bbox_mode"], BoxMode.XYXY_ABS))
            for o in objects
        ]
        classes = [int(o["category_id"]) for o in objects]
        crowd = [bool(o.get("iscrowd", 0)) for o in objects]
    items = [
        _Item(box, index, _class_name(class_names, index) + " (crowd)" * dashed, dashed=dashed)
        for box, index, dashed in zip(boxes, classes, crowd, strict=True)
    ]
    return _draw(image_rgb, items)


def side_by_side(panels: Sequence[tuple[str, RGBImage]]) -> RGBImage:
    """Put pictures beside each other on white, each below its caption.

    Small pictures are magnified as :func:`draw_detections` does, then all are enlarged to the
    height of the tallest. A column is as wide as its picture or its caption, whichever is wider.

    Args:
        panels: (caption, (H, W, 3) uint8), from left to right.

    Raises:
        ValueError: if there is no panel or one is no image.
    """
    if not panels:
        raise ValueError("there are no panels; give at least one (caption, image)")
    for _, image in panels:
        _check_image(image)
    heights = [image.shape[0] * magnification(*image.shape[:2]) for _, image in panels]
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), CAPTION_SIZE)
    columns = [_column(caption, image, max(heights), font) for caption, image in panels]
    gap = np.full((len(columns[0]), GAP, 3), 255, dtype=np.uint8)
    parts = [gap]
    for column in columns:
        parts += [column, gap]
    return np.concatenate(parts, axis=1)


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
    ImageDraw.Draw(canvas).text(position, caption, fill="#202020", font=font, anchor="mm")
    return np.asarray(canvas)


def _check_image(image: RGBImage) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(
            f"an image must be (H, W, 3) uint8 in RGB order; got {image.shape} {image.dtype}"
        )


def _check_frame(image: RGBImage, instances: Instances) -> None:
    _check_image(image)
    if tuple(instances.image_size) != image.shape[:2]:
        raise ValueError(
            f"the boxes belong to an image of (height, width) {tuple(instances.image_size)}, but "
            f"this one has {image.shape[:2]}; draw on the image that was given to the model"
        )


def _class_name(class_names: Sequence[str], index: int) -> str:
    if not 0 <= index < len(class_names):
        raise ValueError(f"class index {index}, but there are {len(class_names)} class names")
    return class_names[index]


def _draw(image: RGBImage, items: list[_Item]) -> RGBImage:
    """Large boxes below small ones; labels above all, in the order given, where there is room."""
    scale = magnification(*image.shape[:2])
    visualizer = Visualizer(image, scale=scale)
    for item in sorted(items, key=lambda i: -float(np.prod(i.box[2:] - i.box[:2]))):
        if item.sigma is not None:
            _draw_band(visualizer, item.box, item.sigma, item.color)
        # Visualizer's own lines grow with its scale and would hide narrow bands.
        outline = PathPatch(
            Path(_corners(item.box), closed=True),
            fill=False,
            edgecolor=item.color,
            linewidth=LINE_WIDTH,
            linestyle="--" if item.dashed else "-",
            joinstyle="miter",
            path_effects=[withStroke(linewidth=LINE_WIDTH + CASING_WIDTH, foreground="black")],
        )
        visualizer.output.ax.add_patch(outline)
    taken: list[FloatArray] = []
    for item in items:
        taken.append(_place_label(visualizer, item, taken))
    drawn: RGBImage = visualizer.get_output().get_image()
    return drawn


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


def _place_label(visualizer: Visualizer, item: _Item, taken: list[FloatArray]) -> FloatArray:
    """Write a label at the first place by its box that is free; returns its frame in pixels."""
    visualizer.draw_text(item.label, (0, 0), color=item.color, horizontal_alignment="left")
    output = visualizer.output
    text = output.ax.texts[-1]
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
    frames = [
        np.array([x, y, x + width, y + height])
        for x, y in (np.clip(place, 0, limit) for place in places)
    ]
    costs = [sum(_overlap(frame, other) for other in taken) for frame in frames]
    chosen = frames[int(np.argmin(costs))]
    text.set_position((chosen[0], chosen[1]))
    return chosen


def _overlap(first: FloatArray, second: FloatArray) -> float:
    """Area that two frames share."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    return float(np.prod(np.maximum(sides, 0)))
