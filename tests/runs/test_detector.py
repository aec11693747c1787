"""What a checkpoint says of its detector, and which checkpoint a folder stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dre_ssod.errors import CheckpointError, ConfigError, UntrustedFileError
from dre_ssod.runs.detector import (
    categories_of,
    entry_for_weights,
    find_checkpoint,
    read_detector,
)
from dre_ssod.runs.resuming import settings_of
from tests.factories import tiny_cfg
from tests.tiny_dataset import write_tiny_dataset

CATEGORIES = [{"id": 3, "name": "disk"}, {"id": 7, "name": "ring"}]
NAMES = ["disk", "ring"]
SETTINGS = {"MODEL.MASK_ON": False}


@pytest.mark.parametrize(
    ("content", "categories"),
    [
        ({"trainer": {"run": {"settings": SETTINGS, "categories": CATEGORIES}}}, CATEGORIES),
        ({"run": {"settings": SETTINGS, "categories": CATEGORIES}}, CATEGORIES),
        (
            {
                "trainer": {
                    "run": {
                        "settings": SETTINGS,
                        "sets": {"labeled": {"classes": ["disk", "ring"]}},
                    }
                }
            },
            [{"id": 1, "name": "disk"}, {"id": 2, "name": "ring"}],
        ),
    ],
)
def test_checkpoints_name_their_settings_and_classes(
    tmp_path: Path, content: dict[str, Any], categories: list[dict[str, Any]]
) -> None:
    torch.save({"model": {}, **content}, tmp_path / "m.pth")
    found = read_detector(tmp_path / "m.pth")
    assert found is not None
    assert (found.settings, found.categories) == (SETTINGS, categories)


@pytest.mark.parametrize(
    "content",
    [{"model": {}}, {"model": {}, "trainer": {"iteration": 3}}, {"model": {}, "run": "first"}, [1]],
)
def test_what_says_nothing_is_no_error(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "m.pth"
    torch.save(content, path)
    assert read_detector(path) is None
    # As PyTorch wrote files before 1.6, and still can.
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert read_detector(path) is None


def test_other_files_say_nothing_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    assert read_detector(tmp_path / "missing.pth") is None
    (tmp_path / "zoo.pkl").write_bytes(b"x")
    assert read_detector(tmp_path / "zoo.pkl") is None
    (tmp_path / "broken.pth").write_bytes(b"x")
    with pytest.raises(UntrustedFileError):
        read_detector(tmp_path / "broken.pth")
    # A checkpoint may be renamed.
    torch.save({"run": {"settings": SETTINGS, "categories": CATEGORIES}}, tmp_path / "mine.pt")
    found = read_detector(tmp_path / "mine.pt")
    assert found is not None
    assert found.categories == CATEGORIES


def test_weights_to_give_away_name_no_place_of_the_machine() -> None:
    cfg = tiny_cfg(
        **{
            "DATASETS.TRAIN": ("coco:///private/train.json?images=/private",),
            "MODEL.WEIGHTS": "/private/start.pth",
            "MODEL.TIMM.WEIGHTS": "/private/timm.pth",
            "TEST.PSEUDO_LABEL_SET": "folder:///private",
            "OUTPUT_DIR": "/private/output",
        }
    )
    entry = entry_for_weights(cfg, CATEGORIES)
    assert "private" not in repr(entry)
    assert entry["categories"] == CATEGORIES
    assert entry["settings"]["MODEL.FPN.OUT_CHANNELS"] == 16
    left_out = settings_of(cfg).keys() - entry["settings"].keys()
    assert left_out == {
        *("SEED", "MODEL.WEIGHTS", "MODEL.TIMM.WEIGHTS", "TEST.PSEUDO_LABEL_SET"),
    }


def test_ids_are_those_of_the_data(tmp_path: Path) -> None:
    text = (write_tiny_dataset(tmp_path).root / "train.json").read_text()
    for number in (1, 2, 3):
        text = text.replace(f'"category_id": {number},', f'"category_id": {number * 7},')
        text = text.replace(
            f'"id": {number}, "name": "class', f'"id": {number * 7}, "name": "class'
        )
    (tmp_path / "train.json").write_text(text)
    found = categories_of([f"coco://{tmp_path}/train.json?images={tmp_path}/train"])
    assert [category["id"] for category in found] == [7, 14, 21]
    assert [category["name"] for category in found] == ["class0", "class1", "class2"]


def test_a_folder_stands_for_its_last_model(tmp_path: Path) -> None:
    final, other = tmp_path / "model_final.pth", tmp_path / "model_0000009.pth"
    whole = {"model": {}, "student": {}, "trainer": {}, "iteration": 9}
    torch.save(whole, other)
    assert find_checkpoint(tmp_path) == other
    torch.save(whole, final)
    assert find_checkpoint(tmp_path) == final
    # The run goes on.
    newer = tmp_path / "model_0000019.pth"
    torch.save({**whole, "iteration": 19}, newer)
    assert find_checkpoint(tmp_path) == final
    # Or it goes back, and has not come to an end since.
    older = tmp_path / "model_0000004.pth"
    torch.save({**whole, "iteration": 4}, older)
    named = {other: final, newer: newer, final: final, older: older}
    for name, expected in ((path.name, taken) for path, taken in named.items()):
        (tmp_path / "last_checkpoint").write_text(name)
        assert find_checkpoint(tmp_path) == expected
    # A file is itself, whatever lies beside it.
    assert find_checkpoint(other) == other


def test_a_folder_without_a_usable_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        find_checkpoint(tmp_path / "missing")
    torch.save({"model": {}}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"holds no checkpoint of a run.*there: weights\.pth"):
        find_checkpoint(tmp_path)
    (tmp_path / "model_0000009.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="none of its checkpoints can be used"):
        find_checkpoint(tmp_path)
