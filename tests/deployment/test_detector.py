"""A detector in three lines: what it takes, what it finds, and what it says of what is no model."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import supervision
import torch
from detectron2.engine import DefaultPredictor
from PIL import Image

import dre_ssod
from dre_ssod.data.images import ImageError
from dre_ssod.deployment.detector import Detector
from dre_ssod.errors import ConfigError, UserError
from dre_ssod.runs.detector import entry_for_weights
from tests.factories import BOXES, SIZE, draw, tiny_cfg, tiny_model

CATEGORIES = [{"id": n, "name": name} for n, name in ((4, "disk"), (9, "ring"), (12, "bar"))]
CFG = tiny_cfg(
    **{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.2, "INPUT.FORMAT": "RGB", "INPUT.MIN_SIZE_TEST": 48}
)


def write(path: Path, **entries: Any) -> Path:
    content = {
        "model": tiny_model(CFG, spread=0.5).state_dict(),
        "student": tiny_model(CFG, seed=1, spread=0.5).state_dict(),
    }
    torch.save(content | entries, path)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says all, and nothing beside it."""
    folder = tmp_path_factory.mktemp("run")
    return write(folder / "model_final.pth", trainer={"run": entry_for_weights(CFG, CATEGORIES)})


@pytest.fixture(scope="module")
def detector(path: Path) -> Detector:
    return dre_ssod.load(path)


@pytest.fixture
def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3), RGB."""
    return draw(SIZE, BOXES, seed=0).permute(1, 2, 0).contiguous().numpy()


def test_a_key_that_changes_nothing_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"VOTING\.ENABLED is False"):
        dre_ssod.load(path, opts=["TEST.VARIANCE_VOTING.SIGMA_T", 0.2])


def test_three_lines_find_what_detectron2_finds(
    detector: Detector, path: Path, pixels: Any, tmp_path: Path
) -> None:
    found = detector(pixels[:, :, ::-1], min_score=0.3)
    cfg = CFG.clone()
    cfg.MODEL.WEIGHTS = str(path)
    expected = DefaultPredictor(cfg)(pixels[:, :, ::-1])["instances"]
    expected = expected[expected.scores >= 0.3]
    assert len(found) == len(expected) > 5
    assert np.array_equal(found.boxes, expected.pred_boxes.tensor.numpy())
    assert np.array_equal(found.scores, expected.scores.numpy())
    assert np.array_equal(found.class_ids, expected.pred_classes.numpy())
    assert np.array_equal(found.sigma, expected.pred_boxes_sigma.numpy())
    assert np.array_equal(found.quality, expected.localization_quality.numpy())
    names = ["disk", "ring", "bar"]
    assert list(found.class_names) == [names[number] for number in expected.pred_classes]
    # The same image as a file, as RGB and in a list.
    Image.fromarray(pixels).save(tmp_path / "x.png")
    others = [detector(str(tmp_path / "x.png"), 0.3), detector(pixels, 0.3, channels="RGB")]
    others += detector([tmp_path / "x.png", str(tmp_path / "x.png")], 0.3)
    others += detector(tmp_path.glob("*.png"), 0.3)
    assert len(others) == 5
    for other in others:
        assert np.array_equal(other.boxes, found.boxes)
    assert detector([]) == []


def test_a_box_less_sure_than_asked_for_is_left_out(detector: Detector, pixels: Any) -> None:
    scores = detector(pixels, 0.2).scores
    assert 0 < (scores >= 0.5).sum() < len(scores)
    assert np.array_equal(detector(pixels).scores, scores[scores >= 0.5])
    nothing = detector(pixels, 1.0)
    assert len(nothing) == 0
    assert nothing.boxes.shape == nothing.sigma.shape == (0, 4)
    with pytest.raises(ConfigError, match=r"min_score is 0\.1; it must lie between"):
        detector(pixels, 0.1)


def test_the_student_and_settings_of_the_call(path: Path, pixels: Any) -> None:
    student = dre_ssod.load(path.parent, "student", opts=["MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.9])
    expected = tiny_model(CFG, seed=1, spread=0.5).state_dict()
    for name, tensor in student._model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert student.cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST == 0.9
    assert student.cfg.INPUT.MIN_SIZE_TEST == 48


def test_supervision_gets_all(detector: Detector, pixels: Any) -> None:
    found = detector(pixels, 0.3)
    converted = found.to_supervision()
    assert isinstance(converted, supervision.Detections)
    assert np.array_equal(converted.xyxy, found.boxes)
    assert np.array_equal(converted.confidence, found.scores)
    assert np.array_equal(converted.class_id, found.class_ids)
    disks = converted[converted["class_name"] == "disk"]
    assert len(disks) == found.class_names.count("disk") > 0
    assert disks.data["sigma"].shape == (len(disks), 4)
    assert len(detector(pixels, 1.0).to_supervision()) == 0


def test_supervision_is_asked_for_where_it_is_missing(
    detector: Detector, pixels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        detector(pixels).to_supervision()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "array of float32 of shape (8, 8, 3)"),
        (np.zeros((8, 8), np.uint8), "of shape (8, 8)"),
        (np.zeros((3, 8, 8), np.uint8), "of shape (3, 8, 8)"),
        (np.zeros((8, 8, 4), np.uint8), "of shape (8, 8, 4)"),
        (np.zeros((0, 8, 3), np.uint8), "of shape (0, 8, 3)"),
        (Image.new("RGB", (8, 8)), "Image: an image is a file name, or a NumPy array"),
        (torch.zeros(8, 8, 3), "Tensor: an image is a file name"),
        (b"photo.jpg", "bytes: an image is a file name"),
        ({"image": "photo.jpg"}, "dict: an image is a file name"),
        (None, "NoneType: an image is a file name"),
        ([torch.zeros(8, 8, 3)], "Tensor: an image is a file name, or a NumPy array"),
        ("/missing.jpg", "/missing.jpg"),
        (np.zeros((1, 3000, 3), np.uint8), "array of uint8 of shape (1, 3000, 3): 3000 x 1 pixels"),
    ],
)
def test_what_is_no_image_is_refused(detector: Detector, image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=re.escape(message)):
        detector(image)


def test_a_model_in_a_store_is_the_model(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRE_SSOD_CACHE", str(tmp_path))
    system = fsspec.filesystem("memory")
    system.pipe("/run/model_final.pth", path.read_bytes())
    try:
        assert dre_ssod.load("memory://run").class_names == ["disk", "ring", "bar"]
    finally:
        system.rm("/run", recursive=True)


def test_other_rubbish_is_refused(detector: Detector, path: Path, pixels: Any) -> None:
    with pytest.raises(ConfigError, match="channels is 'rgb'"):
        detector(pixels, channels="rgb")
    with pytest.raises(ConfigError, match="model is 'best'"):
        dre_ssod.load(path, "best")
    with pytest.raises(ConfigError, match="two models are named"):
        dre_ssod.load(path, opts=["MODEL.WEIGHTS", "other.pth"])
    with pytest.raises(ConfigError, match="3, but 1 classes are named: disk"):
        dre_ssod.load(path, classes=["disk"])


def test_a_gpu_that_is_not_there_is_refused_where_it_is_named(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = r"MODEL\.DEVICE \(device in Python\) is 'cuda:3', but PyTorch finds no GPU.*'cpu'"
    for options in ({"device": "cuda:3"}, {"opts": ["MODEL.DEVICE", "cuda:3"]}):
        with pytest.raises(ConfigError, match=message):
            dre_ssod.load(path, **options)
    # What a training has asked for is not named by the caller.
    cfg = tiny_cfg(**{"MODEL.DEVICE": "cuda"})
    trained = write(tmp_path / "gpu.pth", run=entry_for_weights(cfg, CATEGORIES))
    for options in ({}, {"device": "cpu"}):
        assert dre_ssod.load(trained, **options).cfg.MODEL.DEVICE == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"is 'cuda:3'; .*has 2 GPU\(s\), from 'cuda:0'"):
        dre_ssod.load(path, device="cuda:3")


def test_a_config_beside_older_checkpoints_tells(tmp_path: Path) -> None:
    """Those of version 0.1.0, and those of other programs."""
    path = write(tmp_path / "old.pth", trainer={"iteration": 3})
    with pytest.raises(ConfigError, match=r"does not say its settings.*no config\.yaml beside it"):
        dre_ssod.load(path, classes=["a", "b", "c"])
    cfg = CFG.clone()
    cfg.DATASETS.TRAIN = ("coco:///gone.json?images=/gone",)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    with pytest.raises(ConfigError, match=r"cannot be taken from DATASETS\.TRAIN"):
        dre_ssod.load(path)
    for options in ({}, {"config_file": str(tmp_path / "config.yaml")}):
        detector = dre_ssod.load(path, classes=["a", "b", "c"], **options)
        assert detector.class_names == ["a", "b", "c"]
        assert detector.cfg.INPUT.MIN_SIZE_TEST == 48


def test_the_checkpoint_knows_better_than_the_config_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "model_final.pth", run=entry_for_weights(CFG, CATEGORIES))
    other = tiny_cfg(**{"MODEL.FPN.OUT_CHANNELS": 8, "DATASETS.TEST": ("sample://val",)})
    (tmp_path / "config.yaml").write_text(other.dump())
    detector = dre_ssod.load(path)
    assert detector.cfg.MODEL.FPN.OUT_CHANNELS == 16
    assert detector.cfg.DATASETS.TEST == ("sample://val",)
    # One that is named is meant.
    with pytest.raises(
        ConfigError, match=r"MODEL\.FPN\.OUT_CHANNELS is 8, which does not fit MODEL\.WEIGHTS"
    ):
        dre_ssod.load(path, config_file=str(tmp_path / "config.yaml"))


def test_a_key_of_another_version_is_named(tmp_path: Path) -> None:
    entry = entry_for_weights(CFG, CATEGORIES)
    entry["settings"]["MODEL.NEW_LAYER"] = True
    path = write(tmp_path / "m.pth", run=entry)
    with pytest.raises(
        ConfigError, match=r"of another version of this project: there is no config key 'MODEL\.NEW"
    ):
        dre_ssod.load(path)
