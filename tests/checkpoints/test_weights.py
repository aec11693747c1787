"""Weights that fit, weights that fit in part, and weights of something else."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from dre_ssod.checkpoints.checkpointer import SafeCheckpointer
from dre_ssod.checkpoints.weights import (
    load_all,
    load_student,
    say_frozen_at_random,
    start_from,
)
from dre_ssod.config.keys import get_cfg
from dre_ssod.errors import ConfigError


def detector(classes: int) -> nn.Module:
    """A model with the names of a detector."""
    stem = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 1), norm=FrozenBatchNorm2d(2)))
    heads = nn.ModuleDict({"cls_score": nn.Linear(4, classes), "deltas": nn.Linear(4, 4)})
    return nn.ModuleDict({"backbone": nn.ModuleDict({"stem": stem}), "heads": heads})


def save(path: Path, model: nn.Module, prefix: str = "", student: nn.Module | None = None) -> str:
    weights = {prefix + name: value for name, value in model.state_dict().items()}
    content = {"model": weights} | ({"student": student.state_dict()} if student else {})
    torch.save(content, path)
    return str(path)


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("dre_ssod"), "propagate", True)


def test_a_model_that_is_used_takes_all_of_its_weights(tmp_path: Path) -> None:
    saved, model = detector(3), detector(3)
    load_all(model, save(tmp_path / "a.pth", saved))
    for name, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("classes", "prefix", "first"),
    [(4, "", "heads.cls_score.weight"), (3, "modelTeacher.", "backbone.stem.conv.weight")],
)
def test_other_classes_and_other_programs_are_refused_where_a_model_is_used(
    tmp_path: Path, classes: int, prefix: str, first: str
) -> None:
    path = save(tmp_path / "a.pth", detector(classes), prefix)
    with pytest.raises(ConfigError, match=rf"a\.pth' does not fit the config: .* {first} first"):
        load_all(detector(3), path)


def test_a_student_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", detector(3), student=detector(4))
    with pytest.raises(ConfigError, match=r"the student in .*a\.pth' does not fit.*cls_score"):
        load_student(path, detector(3))


def test_training_takes_what_fits_and_names_what_starts_from_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved, model = detector(3), detector(4)
    before = model["heads"]["cls_score"].weight.clone()
    del (content := saved.state_dict())["heads.deltas.bias"]
    torch.save({"model": content}, tmp_path / "a.pth")
    with caplog.at_level("INFO", "dre_ssod"):
        start_from(model, str(tmp_path / "a.pth"))
    assert torch.equal(model["heads"]["cls_score"].weight, before)
    assert torch.equal(model["heads"]["deltas"].weight, saved["heads"]["deltas"].weight)
    table = [line.split("|") for line in caplog.text.splitlines() if line.startswith("|")]
    rows = {row[1].strip(): [cell.strip() for cell in row[2:4]] for row in table}
    assert rows["backbone.stem"] == ["6 of 6", "-"]
    assert rows["heads.cls_score"] == ["0 of 2", "all"]
    assert rows["heads.deltas"] == ["1 of 2", "bias (not in the file)"]
    assert "3 of 10 weights are not from" in caplog.text


def test_without_a_network_the_file_to_fetch_and_the_ways_out_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(SafeCheckpointer, "load_model", unreachable)
    with pytest.raises(ConfigError) as error:
        start_from(detector(3), "detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    message = str(error.value)
    assert "MODEL.WEIGHTS 'detectron2://ImageNetPretrained/MSRA/R-50.pkl' could not be" in message
    assert "/detectron2/ImageNetPretrained/MSRA/R-50.pkl on a machine" in message
    assert "tools/new_config.py --device cpu" in message
    assert "MODEL.RESNETS.NORM BN MODEL.BACKBONE.FREEZE_AT 0" in message
    # A file that cannot be read has another cure.
    with pytest.raises(URLError):
        start_from(detector(3), "a.pth")


def test_training_does_not_start_from_weights_of_which_none_fits(tmp_path: Path) -> None:
    """FrozenBatchNorm2d would make up its statistics, and so seem to have found some."""
    path = save(tmp_path / "a.pth", detector(3), "modelTeacher.")
    with pytest.raises(ConfigError, match=r"gives none of the model's 10 weights, such as backb"):
        start_from(detector(3), path)


def test_training_without_weights_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "dre_ssod"):
        start_from(detector(3), "")
    assert "weights" not in caplog.text


RESNET = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
TIMM = ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        # Both by Detectron2's default.
        (RESNET, ("RESNETS.NORM 'FrozenBN': no", "BACKBONE.FREEZE_AT 2: its", "(MODEL.WEIGHTS, ")),
        ((*RESNET, "MODEL.RESNETS.NORM", "BN"), ("(MODEL.BACKBONE.FREEZE_AT 2: its",)),
        (TIMM, ("MODEL.TIMM.NORM 'FrozenBN'", "or let all of it learn: MODEL.TIMM.NORM BN MODEL.")),
        ((*TIMM, "MODEL.TIMM.NORM", "BN", "MODEL.TIMM.FREEZE_AT", 1), ("(MODEL.TIMM.FREEZE_AT 1",)),
        ((*TIMM, "MODEL.TIMM.NORM", "BN"), ()),
        ((*TIMM, "MODEL.TIMM.WEIGHTS", "some.pth"), ()),
        ((*TIMM, "MODEL.WEIGHTS", "some.pth"), ()),
        ((*RESNET, "MODEL.WEIGHTS", "some.pth"), ()),
        ((*RESNET, "MODEL.RESNETS.NORM", "GN", "MODEL.BACKBONE.FREEZE_AT", 0), ()),
        # Which may have weights of its own.
        (("MODEL.BACKBONE.NAME", "build_my_backbone"), ()),
    ],
)
def test_a_backbone_that_keeps_random_numbers_is_told(
    words: tuple[object, ...], parts: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = ""
    cfg.merge_from_list(list(words))
    say_frozen_at_random(cfg)
    assert len(caplog.messages) == (1 if parts else 0)
    for part in parts:
        assert part in caplog.text
