"""What a run has recorded of its test sets, against what is found on them now."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from detectron2.structures import BoxMode

from dre_ssod.errors import ConfigError
from dre_ssod.report.examined import _contradictions, _precision, examine_run
from dre_ssod.runs.history import RunHistory, Series
from dre_ssod.runs.sets import DatasetRow
from tests.factories import tiny_cfg
from tests.report.test_folders import entry, folder
from tests.report.test_gallery import with_mistakes

AP = 30.0
ALONE, ONE, TWO = "teacher/bbox/AP", "teacher/one/bbox/AP", "teacher/two/bbox/AP"


def said_of(
    name: str,
    starts: list[tuple[str, ...]],
    recorded: Mapping[str, tuple[int, float]],
    ap: float = AP,
) -> list[str]:
    """Of a set whose AP is ``ap`` at iteration 9.

    Args:
        starts: of the run, by the names of their test sets.
        recorded: iteration and value of its figures.
    """
    test = entry()["datasets"][-1] | {"content": "content"}
    trainings = [entry(datasets=[test | {"name": one} for one in names]) for names in starts]
    series = {key: Series([iteration], [value]) for key, (iteration, value) in recorded.items()}
    run = replace(folder("run", *trainings), history=RunHistory("run", series))
    part = with_mistakes([])
    precision = replace(part.precision, overall=(ap, ap, ap))
    part = replace(part, name=name, content="content", precision=precision)
    return _contradictions(run, "teacher", 9, DatasetRow("test", name, 1, ""), part)


def test_one_of_the_sets_of_a_run_is_compared_with_its_own_figures() -> None:
    both = [("one", "two")]
    recorded = {ONE: (9, AP), TWO: (9, 50.0)}
    assert said_of("one", both, recorded) == []
    (said,) = said_of("two", both, recorded)
    assert "AP of the teacher on two is 30.00 here, but the run recorded 50.00" in said


@pytest.mark.parametrize("starts", [[("one",)], [("one",), ("one", "two")]])
def test_the_only_set_of_a_start_has_figures_without_its_name(
    starts: list[tuple[str, ...]],
) -> None:
    assert said_of("one", starts, {ALONE: (9, AP), TWO: (9, 50.0)}) == []
    assert said_of("one", starts, {ALONE: (4, 50.0), ONE: (9, AP)}) == []


def test_figures_of_another_set_confirm_nothing() -> None:
    for starts, recorded in (
        ([("one", "two")], {TWO: (9, AP)}),
        ([("two",), ("one", "two")], {ALONE: (9, AP)}),
        ([("one",)], {ALONE: (4, AP)}),
    ):
        (said,) = said_of("one", starts, recorded)
        assert "has not evaluated its teacher at iteration 9" in said


def test_a_model_that_finds_nothing_has_the_recorded_ap_of_0() -> None:
    item = {"bbox": [0.0, 0.0, 5.0, 5.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    found = _precision([{"image_id": 1, "annotations": [item]}], ["a", "b"], {})
    assert found.overall == (0.0, 0.0, 0.0)
    for part in (found.ap, found.ap50, found.curves[50]):
        # There is no object of the second class.
        assert part.tolist() == pytest.approx([0.0, math.nan], nan_ok=True)
    assert said_of("one", [("one",)], {ALONE: (9, 0.0)}, found.overall[0]) == []


def test_a_set_without_objects_has_no_ap() -> None:
    found = _precision([{"image_id": 1, "annotations": []}], ["a"], {})
    assert all(map(math.isnan, [*found.overall, *found.ap, *found.ap50, *found.curves[:, 0]]))


def test_another_model_than_the_last_of_the_run_is_refused() -> None:
    run = folder("run", entry())
    with pytest.raises(ConfigError, match=r"MODEL\.WEIGHTS 'a\.pth'.*train_net\.py --eval-only"):
        examine_run(run, "teacher", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "a.pth"])


def test_a_gpu_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        "dre_ssod.report.examined.find_last", lambda path: Mock(path=path / "m.pth")
    )
    (tmp_path / "config.yaml").write_text(tiny_cfg().dump())
    run = replace(folder("run", entry()), path=tmp_path)
    with pytest.raises(ConfigError, match=r"is 'cuda:1', but PyTorch finds no GPU.*'cpu'"):
        examine_run(run, "teacher", ["MODEL.DEVICE", "cuda:1"])
