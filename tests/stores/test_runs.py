"""Trainings and tools whose data and weights are in a bucket do what they do from a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from dre_ssod.checkpoints.weights import load_all, load_student
from dre_ssod.data.conversion.packing import pack
from dre_ssod.deployment.demo import find_images
from dre_ssod.deployment.trained_model import configure_trained, load_trained
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.errors import ConfigError
from dre_ssod.runs.detector import entry_for_weights, find_checkpoint
from dre_ssod.stores import place_of
from tests.engine.resume_harness import Stop, StopAt, differences, end_of, run_config
from tests.factories import tiny_cfg, tiny_model
from tests.tiny_dataset import TinyDataset, write_tiny_dataset
from tools import pseudo_label

pytestmark = pytest.mark.usefixtures("kept_loggers")

ADDRESS = "s3://data/tiny"


@pytest.fixture
def data(tmp_path: Path, bucket: Any) -> TinyDataset:
    """A set with shards of its unlabeled images, beside it the folder ``run`` with weights; all of
    it lies under ``ADDRESS`` too."""
    local = write_tiny_dataset(tmp_path / "data")
    pack(local.unlabeled, local.root / "packed", "more", per_shard=3, labels=False)
    cfg = tiny_cfg(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.2})
    run = entry_for_weights(cfg, [{"id": n, "name": name} for n, name in enumerate("abc", 1)])
    weights = tiny_model(cfg, spread=0.5).state_dict()
    (local.root / "run").mkdir()
    content = {"model": weights, "student": weights, "run": run}
    torch.save(content, local.root / "run" / "model_final.pth")
    bucket.put(f"{local.root}/", "data/tiny/", recursive=True)
    return local


def train(root: str, folder: Path, stop_at: int = -1) -> None:
    """As a fresh process does, from weights and sets under a root; resumes what is there."""
    labeled = (f"coco://{root}/train.json?images={root}/train",)
    overrides = {
        "MODEL.WEIGHTS": f"{root}/run/model_final.pth",
        "DATASETS.TRAIN": labeled,
        "DATASETS.TEST": labeled,
        "DATASETS.UNLABELED": (f"folder://{root}/more", f"shards://{root}/packed/more-*.tar"),
        "SOLVER.MAX_ITER": 4,
        "SOLVER.STEPS": (3,),
        "SOLVER.WARMUP_ITERS": 2,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "SSOD.BURN_IN_ITERS": 1,
        "TEST.EVAL_PERIOD": 4,
    }
    cfg = run_config(TinyDataset(Path()), folder, overrides)
    seed_all_rng(cfg.SEED)
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.register_hooks([StopAt(stop_at)])
    trainer.train()


def test_a_training_that_is_killed_and_resumed_is_that_of_the_disk(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = {"local": str(data.root), "remote": ADDRESS}
    train(roots["local"], tmp_path / "local")
    with pytest.raises(Stop):
        train(ADDRESS, tmp_path / "remote", stop_at=3)
    # Another machine continues, with a cache that holds a part of the set.
    monkeypatch.setenv("DRE_SSOD_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("DRE_SSOD_CACHE_GIB", "0.00001")
    train(ADDRESS, tmp_path / "remote")
    local, remote = (end_of(tmp_path / kind, root) for kind, root in roots.items())
    assert "model_final.pth/iteration" in local
    assert differences(local, remote) == []


def test_a_model_in_a_bucket_is_the_model(data: TinyDataset) -> None:
    """By ``--run`` with a folder and a file, and by MODEL.WEIGHTS with a file."""
    file = f"{ADDRESS}/run/model_final.pth"
    assert str(find_checkpoint(place_of(f"{ADDRESS}/run"))) == file
    for given in ({"path": f"{ADDRESS}/run"}, {"path": file}, {"opts": ["MODEL.WEIGHTS", file]}):
        cfg, categories = configure_trained(**given)  # type: ignore[arg-type]
        assert cfg.MODEL.WEIGHTS == file
        assert [category["name"] for category in categories] == ["a", "b", "c"]
    cfg.MODEL.DEVICE = "cpu"
    expected = torch.load(data.root / "run" / "model_final.pth", weights_only=True)["model"]
    for which in ("teacher", "student"):
        for name, value in load_trained(cfg, which).state_dict().items():
            assert torch.equal(value, expected[name])


def test_a_model_that_is_not_in_the_bucket_is_named(data: TinyDataset, bucket: Any) -> None:
    with pytest.raises(ConfigError, match="'s3://data/none': there is no such file or folder"):
        configure_trained("s3://data/none")
    bucket.pipe("data/run/model_0000009.pth", b"x")
    with pytest.raises(ConfigError, match=r"'s3://data/run' holds.*there: model_0000009\.pth"):
        configure_trained("s3://data/run")
    model = tiny_model(tiny_cfg())
    with pytest.raises(ConfigError, match=r"there is no file 's3://data/none\.pth'"):
        load_all(model, "s3://data/none.pth")
    with pytest.raises(FileNotFoundError, match=r"s3://data/none\.pth"):
        load_student("s3://data/none.pth", model)


def test_labels_of_a_bucket_are_those_of_the_disk(data: TinyDataset, tmp_path: Path) -> None:
    for root, output in ((str(data.root), "local"), (ADDRESS, "remote")):
        words = f"--run {root}/run --input folder://{root}/more --output {tmp_path / output}"
        assert pseudo_label.run([*words.split(), "--chunk", "2", "--min-score", "0.4"]) == 0
    for name in ("pseudo_labels.json", "label_next.json"):
        local, remote = ((tmp_path / kind / name).read_text() for kind in ("local", "remote"))
        assert remote.replace(ADDRESS, str(data.root)) == local
        assert "u3.png" in local


def test_pictures_of_a_bucket_are_found(data: TinyDataset) -> None:
    found = find_images([f"{ADDRESS}/more", f"{ADDRESS}/more/u1.png", f"{ADDRESS}/train/1.png"])
    names = [*(f"more/u{number}.png" for number in range(4)), "train/1.png"]
    assert [str(image.path) for image in found] == [f"{ADDRESS}/{name}" for name in names]
    assert [str(image.name) for image in found] == ["u0.png", "u1.png", "u2.png", "u3.png", "1.png"]
    with pytest.raises(ConfigError, match="--input 's3://data/tiny/none': no image of that name"):
        find_images([f"{ADDRESS}/none"])
