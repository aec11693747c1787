"""The tool draws labeled and unlabeled images of a config."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import cv2
import pytest
import torch

from dre_ssod.data.sources.catalog import class_names
from dre_ssod.errors import ConfigError
from dre_ssod.methods import build_method
from dre_ssod.methods.parts.score_ranks import BINS
from dre_ssod.runs.detector import entry_for_weights
from tests.factories import NUM_CLASSES, labels_alone, tiny_model
from tests.tiny_dataset import TinyDataset, loggers_kept, tiny_run, write_tiny_dataset


@pytest.fixture
def data(tmp_path: Path) -> TinyDataset:
    return write_tiny_dataset(tmp_path / "data")


@pytest.fixture
def config(data: TinyDataset, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(tiny_run(data, tmp_path / "run").dump())
    return path


def run(tool: ModuleType, config: Path, *words: str) -> None:
    with loggers_kept():
        tool.main(tool.parse_arguments(["--config-file", str(config), *words]))


def test_labeled_images_are_drawn_the_same_each_time(
    tool: ModuleType, config: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        run(tool, config, "--images", "2", "--output", str(tmp_path / name))
    run(tool, config, "--images", "2", "--seed", "1", "--output", str(tmp_path / "three"))
    files = [sorted((tmp_path / name).iterdir()) for name in ("one", "two", "three")]
    assert [path.name for path in files[0]] == ["labeled_000.jpg", "labeled_001.jpg"]
    first, second, third = ([path.read_bytes() for path in part] for part in files)
    assert first == second
    assert first != third
    assert cv2.imread(str(files[0][0])).shape[1] > 1400
    assert not (tmp_path / "run").exists()


def test_pseudo_labels_are_those_of_the_model_file(
    tool: ModuleType, config: Path, data: TinyDataset, tmp_path: Path
) -> None:
    cfg = tiny_run(data, tmp_path / "run", **{"MODEL.ROI_HEADS.NUM_CLASSES": NUM_CLASSES})
    weights = tiny_model(cfg, spread=0.5).state_dict()
    torch.save({"model": weights, "student": weights}, tmp_path / "model.pth")
    words = ("--images", "1", "--pseudo-labels", "--output", str(tmp_path / "out"))
    run(tool, config, *words, "MODEL.WEIGHTS", str(tmp_path / "model.pth"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["labeled_000.jpg", "unlabeled_000.jpg"]


def test_classes_in_another_order_than_the_models_are_refused(
    tool: ModuleType, config: Path, data: TinyDataset, tmp_path: Path
) -> None:
    """Each panel would name the class of another one."""
    cfg = tiny_run(data, tmp_path / "run", **{"MODEL.ROI_HEADS.NUM_CLASSES": NUM_CLASSES})
    names = reversed(class_names([data.labeled]))
    run_entry = entry_for_weights(cfg, [{"id": n, "name": name} for n, name in enumerate(names)])
    content = {"model": tiny_model(cfg, spread=0.5).state_dict(), "run": run_entry}
    torch.save(content, tmp_path / "model.pth")
    words = ("--pseudo-labels", "--output", str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"was trained with the classes class2, class1, class0"):
        run(tool, config, *words, "MODEL.WEIGHTS", str(tmp_path / "model.pth"))
    assert not (tmp_path / "out").exists()


def test_pseudo_labels_are_chosen_as_the_method_has_learned_to(
    tool: ModuleType,
    config: Path,
    data: TinyDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Half as many as expected: from a low score on, or from a high one; the third says nothing."""
    share = ("SSOD.LABELS.RANK_SHARE", "0.5", "SSOD.LABELMATCH.MIN_SCORE", "0.01")
    cfg = tiny_run(data, tmp_path / "run", **{"MODEL.ROI_HEADS.NUM_CLASSES": NUM_CLASSES})
    cfg.merge_from_list(list(share))
    weights = tiny_model(cfg, spread=0.5).state_dict()
    pictures = []
    for number, score in enumerate((0.05, 0.95, None)):
        content = {"model": weights, "student": weights}
        if score is not None:
            method = build_method(cfg)
            method.study(labels_alone([{"annotations": []}]))
            ranks = torch.zeros(NUM_CLASSES, BINS)
            ranks[:, int(score * BINS)] = 4.0
            method.learn({"scores": ranks, "images": torch.tensor([8.0])})
            state = {"name": "DRE", "state": method.state_dict()}
            content["trainer"] = {"_trainer": {"method": state}}
        file, out = tmp_path / f"{number}.pth", tmp_path / f"out{number}"
        torch.save(content, file)
        words = ("--images", "1", "--pseudo-labels", "--output", str(out))
        run(tool, config, *words, "MODEL.WEIGHTS", str(file), *share)
        assert ("does not say what DRE has learned" in capsys.readouterr().out) is (score is None)
        pictures.append((out / "unlabeled_000.jpg").read_bytes())
    assert pictures[0] != pictures[1]


def test_a_broken_image_is_named_and_skipped(
    tool: ModuleType,
    config: Path,
    data: TinyDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in sorted((data.root / "train").iterdir())[:4]:
        path.write_bytes(b"")
    run(tool, config, "--output", str(tmp_path / "out"), "DATASETS.LABELED_PERCENT", "100.0")
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert capsys.readouterr().err.count("skipped: ") == 4


def test_a_used_folder_is_refused(tool: ModuleType, config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="exists and is not empty"):
        run(tool, config, "--output", str(tmp_path / "out"))
