"""Generated datasets through all forms in turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.data.conversion.convert import FORMS, convert
from dre_ssod.data.sources.catalog import class_names, load_one_labeled
from tests.data.written_sets import boxes_of

Writer = Callable[..., Path]

SIDES = st.floats(0, 1).map(lambda value: round(value, 6))
CLASSES = ["b & <c>", "a", "1", "no", "é,ü %"]


@st.composite
def coco_sets(draw: st.DrawFn) -> list[list[tuple[int, list[float]]]]:
    """(category id, (x, y, w, h)) by image of 640 x 480 pixels, boxes wider than two pixels."""
    images = []
    for _ in range(draw(st.integers(1, 4))):
        boxes = []
        for _ in range(draw(st.integers(0, 4))):
            x, y = 600 * draw(SIDES), 450 * draw(SIDES)
            sides = [2 + 38 * draw(SIDES), 2 + 28 * draw(SIDES)]
            box = (draw(st.integers(1, len(CLASSES))), [x, y, *sides])
            # The same box twice counts once.
            boxes += [box] * (box not in boxes)
        images.append(boxes)
    if not any(images):
        images[0].append((1, [0.0, 0.0, 2.5, 2.5]))
    return images


@settings(max_examples=25, deadline=None)
@given(
    images=coco_sets(),
    order=st.randoms(use_true_random=False),
    chain=st.permutations(sorted(FORMS)),
)
def test_a_chain_of_forms_brings_every_box_back(
    tmp_path_factory: pytest.TempPathFactory,
    write_image: Writer,
    write_coco: Writer,
    images: list[list[tuple[int, list[float]]]],
    order: Any,
    chain: list[str],
) -> None:
    root = tmp_path_factory.mktemp("chain")
    numbers = order.sample(range(1, 30), len(images))
    names = {number: f"{'ab'[number % 2]}/{number}.png" for number in numbers}
    for name in names.values():
        write_image(root / "images" / name, (640, 480))
    entries = [
        {"id": number, "file_name": name, "width": 640, "height": 480}
        for number, name in names.items()
    ]
    path = write_coco(
        root / "a.json",
        dict(zip(numbers, images, strict=True)),
        dict(enumerate(CLASSES, start=1)),
        replaced={"images": entries},
    )
    uri = f"coco://{path}?images={root / 'images'}"
    before = load_one_labeled(uri)
    for step, form in enumerate(chain):
        [result] = convert({"train": uri}, form, root / str(step), "link")
        assert not result.lost
        uri = result.uri
    after = load_one_labeled(uri)
    assert class_names([uri]) == CLASSES
    for found, expected in zip(boxes_of(after), boxes_of(before), strict=True):
        assert [index for index, _ in found] == [index for index, _ in expected]
        for (_, ours), (_, theirs) in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
    original = [Path(record["file_name"]).resolve() for record in before]
    assert [Path(record["file_name"]).resolve() for record in after] == original
