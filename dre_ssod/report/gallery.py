"""The images with the worst mistakes: truth beside the detections of each run."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.structures import BoxMode

from dre_ssod.data.images import read_image
from dre_ssod.data.records import corners
from dre_ssod.inspection.canvas import Item, RGBImage, draw_items
from dre_ssod.inspection.drawing import draw_ground_truth
from dre_ssod.inspection.found import FOUND, MISSED, WIDTH, WRONG, WRONG_WIDTH
from dre_ssod.inspection.layout import reduced
from dre_ssod.report.examined import ExaminedSet
from dre_ssod.report.mistakes import KINDS, Judged, Mistake

LARGEST_SIDE = 480
"""Longer images are reduced to this many pixels before they are drawn on."""
WEBP_QUALITY = 72


@dataclass(frozen=True)
class Picture:
    """One picture of an image.

    Attributes:
        title: above it.
        alt: what it shows, in words.
        uri: the picture itself, as a data URI.
        width, height: in pixels.
        mistakes: in words; empty for the truth.
    """

    title: str
    alt: str
    uri: str
    width: int
    height: int
    mistakes: Sequence[str] = ()


@dataclass(frozen=True)
class Case:
    """One image of a test set.

    Attributes:
        file_name: without its folder.
        pictures: the truth, then the detections of each run.
        marks: ``CLASS:KIND:RUN`` of each mistake, classes and runs by number.
    """

    file_name: str
    pictures: Sequence[Picture]
    marks: Sequence[str]


def choose(tested: Sequence[ExaminedSet], limit: int) -> list[int]:
    """Numbers of the images to show, at most ``limit``.

    Each kind of mistake of each class gives its worst image in turn, so that all of them are to be
    seen: the one with most mistakes of the kind and class, then most in all, then the first.

    Args:
        tested: the same images by each run.
    """
    totals: dict[int, int] = defaultdict(int)
    groups: dict[tuple[str, int], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for part in tested:
        for number, judged in enumerate(part.judged):
            for mistake in judged.mistakes:
                totals[number] += 1
                groups[mistake.kind, mistake.class_index][number] += 1
    queues = [
        sorted(images, key=lambda number: (-images[number], -totals[number], number))
        for _, images in sorted(groups.items(), key=lambda group: -sum(group[1].values()))
    ]
    chosen: dict[int, None] = {}
    for rank in range(max(map(len, queues), default=0)):
        chosen.update(dict.fromkeys(queue[rank] for queue in queues if rank < len(queue)))
        if len(chosen) >= limit:
            break
    return sorted(list(chosen)[:limit], key=lambda number: -totals[number])


def draw_cases(
    tested: Mapping[str, ExaminedSet], numbers: Sequence[int], run_numbers: Sequence[int]
) -> Iterator[Case]:
    """Draw images.

    Args:
        tested: the same images, by the name of the run.
        numbers: of the images.
        run_numbers: of the runs on the page.
    """
    first = next(iter(tested.values()))
    for number in numbers:
        record = first.records[number]
        image, scale = reduced(read_image(record["file_name"], "RGB"), LARGEST_SIDE)
        objects = first.judged[number].objects
        pictures = [_truth(image, scale, record["annotations"], objects, first.class_names)]
        marks = []
        for (name, part), run in zip(tested.items(), run_numbers, strict=True):
            judged = part.judged[number]
            pictures.append(_detections(image, scale, name, judged, first.class_names))
            marks += [f"{m.class_index}:{m.kind}:{run}" for m in judged.mistakes]
        yield Case(Path(record["file_name"]).name, pictures, sorted(set(marks)))


def _truth(
    image: RGBImage,
    scale: float,
    annotations: Sequence[dict[str, Any]],
    objects: Sequence[dict[str, Any]],
    names: Sequence[str],
) -> Picture:
    scaled = [
        {**item, "bbox": scale * np.array(corners(item)), "bbox_mode": BoxMode.XYXY_ABS}
        for item in annotations
    ]
    drawn = draw_ground_truth(image, scaled, names)
    counts = Counter(names[int(item["category_id"])] for item in objects)
    told = ", ".join(f"{n} {name}" for name, n in counts.items())
    return _picture("Truth", f"Truth: {told or 'no object'}", drawn)


def _detections(
    image: RGBImage, scale: float, run: str, judged: Judged, names: Sequence[str]
) -> Picture:
    """Found objects by their detection and the band of its edges; mistakes by name."""
    boxes = scale * judged.detections.pred_boxes.tensor.numpy()
    sigma = np.zeros_like(boxes)
    if judged.detections.has("pred_boxes_sigma"):
        sigma = scale * judged.detections.pred_boxes_sigma.numpy()
    scores = judged.detections.scores.tolist()
    classes = judged.detections.pred_classes.tolist()
    items = [
        Item(boxes[n], FOUND, f"{names[classes[n]]} {scores[n]:.2f}", sigma[n], width=WIDTH)
        for n in judged.partner
        if n >= 0
    ]
    for mistake in judged.mistakes:
        number = mistake.detection
        if number is None:
            corner = scale * np.array(corners(judged.objects[mistake.object or 0]))
            label = f"missed: {names[mistake.class_index]}"
            items.append(Item(corner, MISSED, label, dashed=True, width=WIDTH))
        else:
            called, _ = KINDS[mistake.kind]
            label = f"{called}: {names[classes[number]]} {scores[number]:.2f}"
            items.append(Item(boxes[number], WRONG, label, sigma[number], width=WRONG_WIDTH))
    found = sum(number >= 0 for number in judged.partner)
    words = [_in_words(mistake, judged, names) for mistake in judged.mistakes]
    told = [f"{text} ({n} times)" if n > 1 else text for text, n in Counter(words).items()]
    of = f"{found} of {len(judged.objects)} objects found"
    alt = f"Detections of {run}: {of}, {len(words)} mistakes"
    return _picture(f"{run}: {of}", alt, draw_items(image, items), told)


def _in_words(mistake: Mistake, judged: Judged, names: Sequence[str]) -> str:
    (called, _), true = KINDS[mistake.kind], names[mistake.class_index]
    if mistake.detection is None:
        return f"{called}: {true}"
    score = float(judged.detections.scores[mistake.detection])
    detected = names[int(judged.detections.pred_classes[mistake.detection])]
    instead = f"{true} taken for " if mistake.kind == "confused" else ""
    return f"{called}: {instead}{detected} {score:.2f}"


def _picture(title: str, alt: str, drawn: RGBImage, mistakes: Sequence[str] = ()) -> Picture:
    bgr = np.ascontiguousarray(drawn[:, :, ::-1])
    _, encoded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
    uri = "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()
    height, width = drawn.shape[:2]
    return Picture(title, alt, uri, width, height, mistakes)
