from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image

from dre_ssod.data.images import ImageError
from dre_ssod.data.sources.catalog import class_names
from dre_ssod.deployment.trained_model import (
    InferenceReader,
    device_of,
    find_categories,
    load_trained,
)
from dre_ssod.errors import ConfigError
from dre_ssod.runs.detector import TrainedDetector, check_classes, entry_for_weights
from tests.factories import SIZE, draw, tiny_cfg, tiny_model
from tests.tiny_dataset import write_tiny_dataset


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = tiny_cfg()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": tiny_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    return cfg


def test_the_model_is_loaded_whole_and_set_to_evaluate(cfg: CfgNode) -> None:
    # A backbone's own weights are not needed where a checkpoint holds the model.
    cfg.MODEL.TIMM.WEIGHTS = "missing.pth"
    model = load_trained(cfg)
    assert not model.training
    expected = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_student_is_loaded_where_it_is_asked_for(cfg: CfgNode) -> None:
    with pytest.raises(ConfigError, match=r"holds no student, so --model student cannot be"):
        load_trained(cfg, "student")
    student = tiny_model(cfg, spread=0.5).state_dict()
    saved = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    torch.save({**saved, "student": student}, cfg.MODEL.WEIGHTS)
    for which, expected in (("student", student), ("teacher", saved["model"])):
        model = load_trained(cfg, which)
        assert not model.training
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES", 5, "cls_score"),
        ("MODEL.FPN.OUT_CHANNELS", 8, "backbone.fpn_lateral2"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    cfg: CfgNode, key: str, value: int, named: str
) -> None:
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=f"does not fit the config: .*{named}"):
        load_trained(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        # All of them fit every tensor, and would give other boxes or another sigma.
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.9, 1.0, 1.1]]),
        ("INPUT.FORMAT", "RGB"),
        ("MODEL.PIXEL_STD", [2.0, 2.0, 2.0]),
        ("MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA", True),
    ],
)
def test_weights_of_other_settings_are_refused(cfg: CfgNode, key: str, value: object) -> None:
    saved = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    described = entry_for_weights(cfg, [{"id": n, "name": str(n)} for n in range(3)])
    torch.save({**saved, "run": described}, cfg.MODEL.WEIGHTS)
    load_trained(cfg)
    # What is about learning alone may differ, and so may what is done with detections.
    learning = {"MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.TIMM.FREEZE_AT": 3}
    for other, number in {**learning, "TEST.DETECTIONS_PER_IMAGE": 7}.items():
        load_trained(tiny_cfg(**{"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, other: number}))
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=f"{key} is .*: it was trained with .*{key} differ"):
        load_trained(cfg)


def test_classes_of_a_model_are_those_that_it_is_measured_by(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = [write_tiny_dataset(tmp_path).labeled]
    names = class_names(train)

    def check(*own: str) -> None:
        check_classes(TrainedDetector({}, [{"id": 1, "name": name} for name in own]), train)

    with caplog.at_level("WARNING", logger="dre_ssod"):
        check(*names)
        assert not caplog.records
        check("disk", *names[1:])
    assert "a class is taken for the one at its place" in caplog.text
    with pytest.raises(ConfigError, match=r"name the sets of the training in DATASETS\.TRAIN"):
        check(*reversed(names))


def test_no_weights_and_no_file_are_refused(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS is empty"):
        load_trained(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "missing.pth")
    with pytest.raises(ConfigError, match=r"there is no file '.*missing.pth'"):
        load_trained(cfg)


def test_the_device_is_the_processes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny_cfg()
    assert device_of(cfg, 1) == "cpu"
    cfg.MODEL.DEVICE = "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(cfg, 1) == "cuda:1"
    cfg.MODEL.DEVICE = "cuda:3"
    assert device_of(cfg, 1) == "cuda:3"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(cfg, 1) == "cpu"


def test_categories_by_name_and_from_the_data(tmp_path: Path) -> None:
    cfg = tiny_cfg()
    named = find_categories(cfg, ["x", "y", "z"])
    assert named == [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}, {"id": 3, "name": "z"}]
    with pytest.raises(ConfigError, match="NUM_CLASSES is 3, but 2 classes are named: x, y"):
        find_categories(cfg, ["x", "y"])
    known = [{"id": 7, "name": "x"}, {"id": 2, "name": "y"}, {"id": 9, "name": "z"}]
    assert find_categories(cfg, known=known) == known
    cfg.DATASETS.TRAIN = (write_tiny_dataset(tmp_path).labeled,)
    assert [category["name"] for category in find_categories(cfg)] == ["class0", "class1", "class2"]
    cfg.DATASETS.TRAIN = ("coco://missing.json?images=x",)
    with pytest.raises(ConfigError, match="Name them in the model's order: --classes A,B,C"):
        find_categories(cfg)


def test_names_of_the_command_line_do_not_hide_those_of_the_checkpoint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = [{"id": 7, "name": "x"}, {"id": 2, "name": "y"}, {"id": 9, "name": "z"}]
    with caplog.at_level("WARNING", logger="dre_ssod"):
        assert find_categories(tiny_cfg(), ["x", "y", "z"], known) == known
        assert not caplog.records
        renamed = find_categories(tiny_cfg(), ["x", "y", "ring"], known)
    assert renamed[2] == {"id": 3, "name": "ring"}
    assert "trained with the classes x, y, z, in this order, and those of --classes" in caplog.text
    with pytest.raises(ConfigError, match=r"x, z, y: leave --classes .* out, or name them in the"):
        find_categories(tiny_cfg(), ["x", "z", "y"], known)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_images_are_read_as_detectron2_tests_them(tmp_path: Path, image_format: str) -> None:
    pixels = draw(SIZE, [(3, 3, 20, 30)]).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(tmp_path / "x.png")
    cfg = tiny_cfg(**{"INPUT.FORMAT": image_format, "INPUT.MIN_SIZE_TEST": 40})
    found = InferenceReader(cfg)(str(tmp_path / "x.png"))
    ordered = pixels if image_format == "RGB" else pixels[:, :, ::-1]
    expected = T.ResizeShortestEdge([40, 40], 96).get_transform(ordered).apply_image(ordered)
    assert (found["height"], found["width"]) == SIZE
    assert torch.equal(found["image"].permute(1, 2, 0).byte(), torch.tensor(expected.copy()))


def test_an_image_of_which_nothing_would_be_left_is_refused(tmp_path: Path) -> None:
    """Detectron2 would resize it to no pixel at all."""
    reader = InferenceReader(tiny_cfg(**{"INPUT.MAX_SIZE_TEST": 96}))
    for name, size, is_usable in (("a", (1, 192), True), ("b", (193, 1), False)):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
        if is_usable:
            assert reader(str(tmp_path / f"{name}.png"))["image"].shape[2] == 1
            continue
        with pytest.raises(ImageError, match=r"b\.png: 193 x 1 pixels are too long and thin"):
            reader(str(tmp_path / f"{name}.png"))
