"""The photographs of docs/tables are made of VOC 2007's test set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from docs.make_voc07small import make
from dre_ssod.errors import SourceError
from tests.voc_folder import write_voc_folder

NAMES = ("000001", "000002", "000003")
# By the SHA-256 of the names with ".jpg".
ORDER = ("000001", "000003", "000002")


@pytest.fixture
def voc(tmp_path: Path) -> str:
    """Each image, 300 pixels wide and 448 high, has a cat, and the first a difficult dog, too."""
    objects = {name: [("cat", (11, 21, 110, 220), False)] for name in NAMES}
    objects[NAMES[0]].append(("dog", (1, 1, 300, 448), True))
    root = write_voc_folder(tmp_path / "voc", objects, with_size=False)
    for name in NAMES:
        Image.new("RGB", (300, 448)).save(root / "JPEGImages" / f"{name}.jpg")
    return f"voc://{root}?split=test"


def test_images_are_drawn_by_their_names_and_reduced_with_their_boxes(
    voc: str, tmp_path: Path
) -> None:
    make(voc, tmp_path / "small", {"test": 1, "train": 2})
    test = json.loads((tmp_path / "small/test.json").read_text())
    train = json.loads((tmp_path / "small/train.json").read_text())
    assert [image["id"] for image in test["images"]] == [int(ORDER[0])]
    assert [image["id"] for image in train["images"]] == sorted(map(int, ORDER[1:]))
    for image in test["images"] + train["images"]:
        assert (image["width"], image["height"]) == (224, 335)
        with Image.open(tmp_path / "small/images" / image["file_name"]) as kept:
            assert kept.size == (224, 335)
    assert (
        test["categories"]
        == train["categories"]
        == [
            {"id": 1, "name": "cat"},
            {"id": 2, "name": "dog"},
        ]
    )
    cat, dog = test["annotations"]
    # VOC counts pixels from 1, the last one in: 10 to 110 and 20 to 220, times 224/300 and 335/448.
    assert cat["bbox"] == [7.47, 14.96, 74.67, 149.55]
    assert cat["area"] == pytest.approx(74.67 * 149.55, abs=0.01)
    # Difficult ones are objects as any.
    assert (dog["category_id"], dog["bbox"], dog["iscrowd"]) == (2, [0.0, 0.0, 224.0, 335.0], 0)
    assert [box["image_id"] for box in train["annotations"]] == [2, 3]


def test_small_images_keep_their_size(tmp_path: Path) -> None:
    write_voc_folder(tmp_path / "voc", {"000001": [("cat", (1, 1, 160, 120), False)]})
    make(f"voc://{tmp_path}/voc?split=test", tmp_path / "small", {"test": 1})
    content = json.loads((tmp_path / "small/test.json").read_text())
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (160, 120)
    assert content["annotations"][0]["bbox"] == [0.0, 0.0, 160.0, 120.0]


def test_too_few_images_and_an_existing_folder_are_refused(voc: str, tmp_path: Path) -> None:
    output = tmp_path / "small"
    with pytest.raises(SourceError, match="has 3 images; 3000 are needed"):
        make(voc, output)
    assert not output.exists()
    output.mkdir()
    with pytest.raises(SourceError, match="exists; choose another folder"):
        make(voc, output, {"test": 1})
