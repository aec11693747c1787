"""What stops a run before it starts, and what its start says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.engine.training_data import load_pools
from dre_ssod.errors import ConfigError
from dre_ssod.runs.detector import entry_for_weights
from tests.engine.steps import completed
from tests.tiny_dataset import TinyDataset, tiny_run


def test_weights_of_classes_in_another_order_start_no_training(
    data: TinyDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "weights.pth"
    changes = {"MODEL.WEIGHTS": str(file), "DATASETS.TEST": (), "TEST.EVAL_PERIOD": 0}
    cfg = completed(tiny_run(data, tmp_path / "run", **changes))
    trainer = SSODTrainer(cfg)

    def begin(*names: str) -> str:
        run = entry_for_weights(cfg, [{"id": i, "name": n} for i, n in enumerate(names, start=1)])
        weights = trainer.teacher.state_dict()
        torch.save({"model": weights, "run": run} if names else {"model": weights}, file)
        caplog.clear()
        with caplog.at_level("WARNING", "dre_ssod"):
            trainer.resume_or_load(resume=False)
        return caplog.text

    logging.getLogger("dre_ssod").propagate = True
    with pytest.raises(ConfigError, match=r"class1, class0, class2, in this order.*other MODEL\.W"):
        begin("class1", "class0", "class2")
    assert "a class is taken for the one at its place" in begin("cat", "dog", "fox")
    for names in (("class0", "class1", "class2"), ("cat", "dog"), ()):
        assert "class" not in begin(*names)


def test_data_that_contradict_the_config_are_refused(data: TinyDataset, tmp_path: Path) -> None:
    empty = {"DATASETS.UNLABELED": (), "DATASETS.LABELED_PERCENT": 100.0}
    with pytest.raises(ConfigError, match="no unlabeled images") as error:
        load_pools(completed(tiny_run(data, tmp_path, **empty)))
    for word in ("DATASETS.UNLABELED is ()", "LABELED_PERCENT is 100.0", "SSOD.ENABLED False"):
        assert word in str(error.value)
    load_pools(completed(tiny_run(data, tmp_path, **empty, **{"SSOD.ENABLED": False})))
    with pytest.raises(ConfigError, match=r"NUM_CLASSES is 5, .* has \d classes: .+\. Set it to"):
        load_pools(completed(tiny_run(data, tmp_path, **{"MODEL.ROI_HEADS.NUM_CLASSES": 5})))


def test_a_start_says_what_of_the_backbone_stays_random(
    data: TinyDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("dre_ssod"), "propagate", True)
    SSODTrainer(completed(tiny_run(data, tmp_path))).resume_or_load(resume=False)
    assert caplog.text.count("The backbone starts from random numbers, and part of it keeps") == 1


@pytest.mark.parametrize(("percent", "told"), [(13.0, 1), (50.0, 0)])
def test_a_draw_of_less_than_a_batch_is_told(
    data: TinyDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    percent: float,
    told: int,
) -> None:
    """As where the labeled part of a split is drawn from again."""
    monkeypatch.setattr(logging.getLogger("dre_ssod"), "propagate", True)
    load_pools(completed(tiny_run(data, tmp_path, **{"DATASETS.LABELED_PERCENT": percent})))
    found = {r.getMessage() for r in caplog.records if r.levelname == "WARNING"}
    assert len(found) == told
    for message in found:
        assert "LABELED_PERCENT 13 leaves 1 labeled image(s), fewer than the 2 of a" in message
        assert "set DATASETS.LABELED_PERCENT 100" in message


def test_the_split_of_a_run_can_be_used_again(data: TinyDataset, tmp_path: Path) -> None:
    cfg = completed(tiny_run(data, tmp_path, **{"DATASETS.LABELED_FOLD": 3}))
    drawn = load_pools(cfg)
    assert drawn.split is not None
    drawn.split.save(tmp_path / "split.json")
    again = {
        "DATASETS.LABELED_PERCENT": 100.0,
        "DATASETS.SPLIT_FILE": str(tmp_path / "split.json"),
    }
    assert load_pools(completed(tiny_run(data, tmp_path, **again))) == drawn
