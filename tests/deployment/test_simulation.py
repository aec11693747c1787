"""What a simulated labeler knows of a run's images."""

from __future__ import annotations

from pathlib import Path

import pytest

from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.deployment.labeling.simulation import known_pool, write_set
from dre_ssod.errors import ConfigError, SourceError
from tests.tiny_dataset import TinyDataset, tiny_run


def test_the_rest_of_a_draw_is_known(data: TinyDataset, tmp_path: Path) -> None:
    cfg = tiny_run(data, tmp_path)
    known = known_pool(cfg, None)
    files = [{record["file_name"] for record in part} for part in (known.labeled, known.pool)]
    assert [len(part) for part in files] == [4, 4]
    assert not files[0] & files[1]
    assert known.drawn
    first = known.draw(2, "0 fold 0")
    assert known.draw(2, "0 fold 0") == first
    assert any(known.draw(2, f"0 fold {fold}") != first for fold in range(1, 9))
    assert known.find([record["file_name"] for record in first]) == first
    with pytest.raises(ConfigError, match=r"--truth is .*leave it out"):
        known_pool(cfg, data.labeled)


def test_other_images_need_somebody_who_knows_them(data: TinyDataset, tmp_path: Path) -> None:
    own = [{"id": number, "name": name} for number, name in ((3, "a"), (7, "b"), (44, "c"))]
    half = write_set(tmp_path / "half.json", load_one_labeled(data.labeled)[:5], own)
    cfg = tiny_run(data, tmp_path, **{"DATASETS.LABELED_PERCENT": 100.0})
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (half,), ()
    with pytest.raises(ConfigError, match="the run has labels of all of"):
        known_pool(cfg, None)
    with pytest.raises(SourceError, match="has no unlabeled image of the run"):
        known_pool(cfg, data.labeled)
    cfg.DATASETS.UNLABELED = (f"folder://{data.root}/train",)
    known = known_pool(cfg, data.labeled)
    assert not known.drawn
    assert [Path(record["file_name"]).stem for record in known.pool] == ["6", "7", "8"]
    # Each has its own classes and their ids.
    assert known.categories == own
    names = [category["name"] for category in known.pool_categories]
    assert names == [f"class{number}" for number in range(3)]
