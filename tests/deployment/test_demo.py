"""Which files the demo takes, where its pictures go, and what it writes of a detection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from dre_ssod.deployment.demo import (
    DrawingDetector,
    InputImage,
    find_images,
    names_in_results,
    plan_outputs,
)
from dre_ssod.errors import ConfigError
from tests.factories import tiny_cfg

CATEGORIES = [{"id": 3, "name": "disk"}, {"id": 7, "name": "ring"}]


class Fixed(nn.Module):
    """Sees nothing, and finds two boxes; remembers what it was given."""

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        [self.seen] = batch
        found = Instances((self.seen["height"], self.seen["width"]))
        found.pred_boxes = Boxes(torch.tensor([[10.0, 20.0, 40.0, 60.0], [0.0, 0.0, 5.0, 5.0]]))
        found.pred_classes = torch.tensor([1, 0])
        found.scores = torch.tensor([0.9, 0.3])
        found.pred_boxes_sigma = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 2)
        found.localization_quality = torch.tensor([0.4, 0.2])
        return [{"instances": found}]


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(images: list[InputImage]) -> list[str]:
    return [image.name.as_posix() for image in images]


def test_folders_globs_and_files_each_name_an_image_once(tmp_path: Path) -> None:
    files(tmp_path, "b.jpg", "a.png", "sub/b.jpg", "note.txt", "strange[1].jpg", "data")
    assert names(find_images([str(tmp_path)])) == [
        *("a.png", "b.jpg", "strange[1].jpg", "sub/b.jpg"),
    ]
    found = find_images([f"{tmp_path}/b.jpg", f"{tmp_path}/*", f"{tmp_path}/sub"])
    # The glob also matches the folder, which gives its images, and files that are no images.
    assert names(found)[0] == "b.jpg"
    assert len(found) == 4
    # A file that exists is no glob, and one that is named is taken whatever its extension.
    assert names(find_images([f"{tmp_path}/strange[1].jpg"])) == ["strange[1].jpg"]
    assert names(find_images([f"{tmp_path}/data"])) == ["data"]


@pytest.mark.parametrize("pattern", ["none.jpg", "*.gif", "empty"])
def test_an_input_that_names_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no image of that name"):
        find_images([str(tmp_path / pattern)])


def test_pictures_keep_their_places_and_never_share_one(tmp_path: Path) -> None:
    places = ["a.jpg", "sub/a.jpg", "c.bmp", "c.png", "a.jpg"]
    images = [InputImage(tmp_path / str(k), Path(name)) for k, name in enumerate(places)]
    found = plan_outputs(images, tmp_path / "out", overwrite=False)
    relative = [path.relative_to(tmp_path / "out").as_posix() for path in found]
    assert relative == ["a.jpg", "sub/a.jpg", "c.png", "c_2.png", "a_2.jpg"]


def test_results_tell_images_of_one_name_apart(tmp_path: Path) -> None:
    files(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    images = find_images([f"{tmp_path}/a", f"{tmp_path}/b"])
    assert names_in_results(images) == [f"{tmp_path}/a/1.jpg", "2.jpg", f"{tmp_path}/b/1.jpg"]


def test_one_image_may_go_to_a_named_file(tmp_path: Path) -> None:
    image = InputImage(tmp_path / "a.jpg", Path("a.jpg"))
    assert plan_outputs([image], tmp_path / "seen.png", False) == [tmp_path / "seen.png"]
    with pytest.raises(ConfigError, match="there are 2 images"):
        plan_outputs([image, image], tmp_path / "seen.png", False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_input_is_ever_overwritten(tmp_path: Path, overwrite: bool) -> None:
    files(tmp_path, "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path)
    images = find_images([str(tmp_path / "a.jpg")])
    for output in (tmp_path, tmp_path / "link", tmp_path / "a.jpg"):
        with pytest.raises(ConfigError, match="would be overwritten"):
            plan_outputs(images, output, overwrite)


def test_older_pictures_are_replaced_on_request_only(tmp_path: Path) -> None:
    files(tmp_path, "a.jpg", "out/a.jpg")
    images = find_images([str(tmp_path / "a.jpg")])
    with pytest.raises(ConfigError, match="--overwrite"):
        plan_outputs(images, tmp_path / "out", overwrite=False)
    assert plan_outputs(images, tmp_path / "out", overwrite=True) == [tmp_path / "out/a.jpg"]


def test_a_file_that_is_no_picture_is_no_output(tmp_path: Path) -> None:
    files(tmp_path, "a.jpg", "notes")
    with pytest.raises(ConfigError, match="give a folder"):
        plan_outputs(find_images([str(tmp_path / "a.jpg")]), tmp_path / "notes", True)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_the_model_gets_the_image_in_its_size_and_order(image_format: str) -> None:
    cfg, model = tiny_cfg(**{"INPUT.FORMAT": image_format}), Fixed()
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :, 0] = 200
    DrawingDetector(cfg, model, CATEGORIES, 0.5).detect(image, "x")
    assert model.seen["image"].shape == (3, 64, 96)
    red = 0 if image_format == "RGB" else 2
    assert model.seen["image"].amax(dim=(1, 2)).nonzero().flatten().tolist() == [red]
    assert (model.seen["height"], model.seen["width"]) == (32, 48)


def test_results_are_coco_with_sigma_and_quality() -> None:
    detector = DrawingDetector(tiny_cfg(), Fixed(), CATEGORIES, 0.5)
    found = detector.detect(np.zeros((64, 96, 3), np.uint8), "x")
    assert detector.results(found, 4, "sub/a.jpg") == [
        {
            "image_id": 4,
            "file_name": "sub/a.jpg",
            "category_id": 7,
            "bbox": [10.0, 20.0, 30.0, 40.0],
            "score": 0.9,
            "sigma": [1.0, 2.0, 3.0, 4.0],
            "quality": 0.4,
        }
    ]


@pytest.mark.parametrize("threshold", [0.01, 1.1, float("nan")])
def test_a_threshold_that_the_model_cannot_serve_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="--confidence-threshold"):
        DrawingDetector(tiny_cfg(), Fixed(), CATEGORIES, threshold)
