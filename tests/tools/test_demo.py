"""The demo, from a config, a model file and images to its pictures, JSON and exit code."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from dre_ssod.inspection.video import VideoReader, VideoWriter
from tests.factories import NUM_CLASSES, SIZE, tiny_cfg, tiny_model
from tests.tiny_dataset import loggers_kept


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config and the model of a run whose data are not at hand."""
    folder = tmp_path_factory.mktemp("run")
    cfg = tiny_cfg(**{"DATASETS.TRAIN": ("coco:///gone.json?images=/gone",)})
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": tiny_model(cfg, spread=0.5).state_dict()}, folder / "model.pth")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, one of them in a folder of its own, and a broken one between them."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for name in ("a.png", "sub/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:100])
    return folder


def run(tool: ModuleType, model: Path, *flags: str, classes: str = "x,y,z") -> int:
    arguments = ["--config-file", str(model / "config.yaml"), *flags, "--confidence-threshold"]
    arguments += ["0.3", *(["--classes", classes] if classes else [])]
    with loggers_kept():
        code: int = tool.run([*arguments, "--opts", "MODEL.WEIGHTS", str(model / "model.pth")])
    return code


def test_a_broken_image_is_named_and_skipped(
    tool: ModuleType, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    output, found = tmp_path / "out", tmp_path / "new" / "found.json"
    flags = ("--input", str(photos), "--output", str(output), "--json", str(found))
    assert run(tool, model, *flags) == 1
    said = capsys.readouterr()
    assert f"skipped: {photos / 'b.png'}" in said.err
    assert "on 2 images, 0 without any, 1 skipped" in said.out
    written = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.*"))
    assert written == ["a.png", "sub/c.png"]
    assert np.asarray(Image.open(output / "a.png")).shape == (SIZE[0] * 5, SIZE[1] * 5, 3)
    results = json.loads(found.read_text())
    # Numbers count the broken image.
    assert {(r["image_id"], r["file_name"]) for r in results} == {(1, "a.png"), (3, "sub/c.png")}
    assert {r["category_id"] for r in results} <= set(range(1, NUM_CLASSES + 1))
    assert all(len(r["sigma"]) == 4 and 0 < r["quality"] < 0.5 for r in results)
    assert all(r["score"] >= 0.3 for r in results)
    assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before
    # Once more: what is there is not replaced.
    assert run(tool, model, *flags) == 2


def test_an_image_too_thin_is_named_and_skipped(
    tool: ModuleType, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thin = photos / "b.png"
    Image.new("RGB", (3000, 1)).save(thin)
    flags = ("--input", str(photos), "--json", str(tmp_path / "found.json"))
    assert run(tool, model, *flags) == 1
    said = capsys.readouterr()
    assert f"skipped: {thin}: 3000 x 1 pixels are too long and thin" in said.err
    assert "on 2 images, 0 without any, 1 skipped" in said.out


def test_all_well_is_exit_code_0(
    tool: ModuleType, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, found = tmp_path / "seen.jpg", tmp_path / "found.json"
    flags = ("--input", str(photos / "a.png"), "--output", str(output), "--json", str(found))
    assert run(tool, model, *flags) == 0
    assert output.exists()
    shown = capsys.readouterr().out
    assert f"Pictures: {output}" in shown
    assert f"Detections: {found}" in shown


@pytest.mark.parametrize(
    ("flags", "names", "bands", "color_by"),
    [
        ([], "abc", True, "class"),
        (["--no-bands"], "abc", False, "class"),
        (["--color-by", "object"], "abc", True, "object"),
        ([], "a", True, "object"),
        (["--color-by", "class"], "a", True, "class"),
    ],
)
def test_the_look_is_chosen(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    names: str,
    bands: bool,
    color_by: str,
) -> None:
    cfg = tiny_cfg(**{"MODEL.ROI_HEADS.NUM_CLASSES": len(names)})
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": tiny_model(cfg).state_dict()}, tmp_path / "model.pth")
    words = ["--config-file", str(tmp_path / "config.yaml"), "--input", "x", "--output", "out"]
    words += [*flags, "--classes", ",".join(names)]
    words += ["--opts", "MODEL.WEIGHTS", str(tmp_path / "model.pth")]
    drawing = Mock()
    monkeypatch.setattr("dre_ssod.deployment.demo.draw_detections", drawing)
    pixels = np.zeros((8, 8, 3), np.uint8)
    tool.build_detector(tool.parse_arguments(words)).draw(pixels, Mock())
    assert drawing.call_args.args[2:] == (list(names), bands, color_by)


def test_a_video_becomes_a_video(
    tool: ModuleType, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "clip.mp4"
    with VideoWriter(source, 10.0) as writer:
        for shade in (40, 200):
            writer.write(np.full((*SIZE, 3), shade, np.uint8))
    found = tmp_path / "found.json"
    flags = ("--video-input", str(source), "--output", str(tmp_path / "out"), "--json", str(found))
    assert run(tool, model, *flags) == 0
    video = VideoReader(tmp_path / "out" / "clip.mp4")
    assert (video.fps, len(list(video))) == (10.0, 2)
    assert f"Video: {tmp_path / 'out' / 'clip.mp4'}" in capsys.readouterr().out
    assert {r["image_id"] for r in json.loads(found.read_text())} <= {1, 2}
    # Next to the source there is no place for a video of the same name.
    assert run(tool, model, "--video-input", str(source), "--output", str(tmp_path)) == 2


def test_of_a_video_the_detections_alone_can_be_written(
    tool: ModuleType, model: Path, tmp_path: Path
) -> None:
    source, found = tmp_path / "clip.mp4", tmp_path / "found.json"
    with VideoWriter(source, 10.0) as writer:
        writer.write(np.full((*SIZE, 3), 40, np.uint8))
    assert run(tool, model, "--video-input", str(source), "--json", str(found)) == 0
    assert {r["file_name"] for r in json.loads(found.read_text())} == {"clip.mp4"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "found.json"]


def test_classes_that_cannot_be_looked_up_are_asked_for(
    tool: ModuleType, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--input", str(photos / "a.png"), "--json", str(tmp_path / "f.json"))
    assert run(tool, model, *flags, classes="") == 2
    assert "--classes A,B,C" in " ".join(capsys.readouterr().err.split())
    assert run(tool, model, *flags, classes="x,y") == 2


def test_the_json_never_replaces_an_input(tool: ModuleType, model: Path, photos: Path) -> None:
    image = photos / "a.png"
    before = image.read_bytes()
    assert run(tool, model, "--input", str(image), "--json", str(image), "--overwrite") == 2
    assert image.read_bytes() == before


@pytest.mark.parametrize("flag", ["--json", "--output"])
def test_a_place_that_cannot_be_written_shows_before_the_first_image(
    tool: ModuleType,
    model: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
) -> None:
    look = Mock()
    monkeypatch.setattr("dre_ssod.deployment.demo.run_on_image", look)
    found = photos / "a.png" / "new" / "found"
    assert run(tool, model, "--input", str(photos), flag, str(found)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{found} cannot be written: Not a directory" in said
    look.assert_not_called()


def test_without_a_place_to_write_nothing_starts(tool: ModuleType) -> None:
    with pytest.raises(SystemExit) as error:
        tool.run(["--config-file", "c.yaml", "--input", "a.jpg"])
    assert error.value.code == 2
