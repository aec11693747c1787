from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import fsspec
import pytest
import torch
from PIL import Image

import dre_ssod
from tests.factories import BOXES, SIZE, draw, tiny_cfg, tiny_model


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All but --output, with three images to check on."""
    root = tmp_path_factory.mktemp("run")
    cfg = tiny_cfg(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.3})
    (root / "config.yaml").write_text(cfg.dump())
    torch.save({"model": tiny_model(cfg, spread=0.5).state_dict()}, root / "model.pth")
    (root / "images").mkdir()
    for number in range(3):
        pixels = draw(SIZE, BOXES, seed=number).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
    words = f"--config-file {root}/config.yaml --images {root}/images --classes a,b,c"
    return [*words.split(), "MODEL.WEIGHTS", f"{root}/model.pth"]


def test_everything_is_written_and_the_difference_printed(
    tool: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formats = [word for name in tool.TARGETS for word in ("--format", name)]
    assert tool.run(["--output", str(tmp_path), *formats, *arguments]) == 0
    shown = capsys.readouterr().out
    assert "TorchScript against eager, 3 images" in shown
    assert "ONNX against eager, 3 images" in shown
    for name in ("boxes", "scores", "sigma", "quality"):
        assert f"{name} " in shown.partition("largest difference")[2]
    written = {path.name for path in tmp_path.iterdir()}
    names = {"model.ts", "model.ts.json", "model.onnx", "model_weights.pth"}
    assert written == {*names, "model.safetensors"}
    assert dre_ssod.load(tmp_path / "model_weights.pth").class_names == ["a", "b", "c"]
    before = (tmp_path / "model.ts").read_bytes()
    assert tool.run(["--output", str(tmp_path), *arguments]) == 2
    assert "model.ts exists; choose another folder" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "model.ts").read_bytes() == before


def test_above_the_tolerance_nothing_is_written(
    tool: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output", str(tmp_path), "--format", "torchscript", "--tolerance", "-1"]
    assert tool.run([*words, *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "differs by more than --tolerance -1" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("last", ["onnx", "safetensors"])
def test_a_format_that_fails_leaves_nothing_of_the_others(
    tool: ModuleType,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    last: str,
) -> None:
    """So that the same command can be given again."""
    formats = ["--format", "weights", "--format", "torchscript", "--format", last]
    words = ["--output", str(tmp_path / "out"), *formats, *arguments]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "safetensors.torch" if last == "safetensors" else last, None)
        assert tool.run(words) == 2
    assert "pip install" in " ".join(capsys.readouterr().err.split())
    assert list((tmp_path / "out").iterdir()) == []


def test_without_images_there_is_no_check_and_no_export(
    tool: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output", str(tmp_path), "--images", "", *arguments[:2], *arguments[4:]]
    assert tool.run(words) == 2
    assert "no image to check on" in " ".join(capsys.readouterr().err.split())


def test_the_images_of_the_check_may_be_in_a_store(
    tool: ModuleType, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRE_SSOD_CACHE", str(tmp_path))
    system, folder = fsspec.filesystem("memory"), Path(arguments[3])
    system.pipe("/photos/0.png", (folder / "0.png").read_bytes())
    try:
        [found] = tool.read_images(tiny_cfg(), "folder://memory://photos", 9)
    finally:
        system.rm("/photos", recursive=True)
    [expected] = tool.read_images(tiny_cfg(), str(folder), 1)
    assert torch.equal(found, expected)
