"""Stages 1 and 2 of STAC inside the run: a first detector, and the labels that it makes."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import weakref
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from dre_ssod.data.mappers import EvaluationMapper
from dre_ssod.engine import stages
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.errors import ConfigError, SourceError
from dre_ssod.methods import METHODS
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from tests.engine.resume_harness import Stop, StopAt, differences, end_state
from tests.factories import SIZE
from tests.methods.every import config_of, trainer_of
from tests.tiny_dataset import TinyDataset, loggers_kept

NAME = "STAC"


def stage_cfg(data: TinyDataset, folder: Path, **overrides: Any) -> Any:
    return config_of(NAME, data, folder, **{"SSOD.STAC.LABELS": "", **overrides})


def test_a_run_that_is_stopped_in_its_stages_ends_as_one_that_is_not(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while its first detector trains, and again while that one labels the fifth image."""
    monkeypatch.setattr(stages, "CHUNK", 3)
    label, labeled = stages._label, []
    run = SSODTrainer.train
    iterations: list[int] = []

    def train(trainer: SSODTrainer) -> None:
        if isinstance(trainer.method, METHODS.get("Supervised")):
            trainer.register_hooks([StopAt(number) for number in iterations])
        run(trainer)

    def label_one(model: Any, image: dict[str, Any]) -> Any:
        labeled.append(image["file_name"])
        if len(labeled) == 5:
            raise Stop
        return label(model, image)

    def live(name: str, *at: int, resume: bool = True) -> Path:
        cfg = stage_cfg(data, tmp_path / name, **{"DATASETS.TEST": ()})
        iterations[:] = at
        # As a program does.
        seed_all_rng(cfg.SEED)
        with loggers_kept():
            stages.start(cfg, resume=resume).train()
        return Path(cfg.OUTPUT_DIR)

    monkeypatch.setattr(SSODTrainer, "train", train)
    whole = live("whole", resume=False)
    monkeypatch.setattr(stages, "_label", label_one)
    for at in ((4,), ()):
        with pytest.raises(Stop):
            live("stopped", *at, resume=bool(labeled))
    stopped = live("stopped")
    # Chunks that are there are kept.
    assert len(labeled) == 5 + 8 - 3
    assert len(json.loads((stopped / "stac" / "labels.json").read_text())["images"]) == 8
    for stage in ("", "stac/supervised"):
        ends = [end_state(folder / stage) for folder in (whole, stopped)]
        known = [{k: v for k, v in end.items() if "supervised/" not in k} for end in ends]
        assert differences(*known) == []
    # Labels that are there are kept.
    (stopped / "stac" / "chunk_00002.json").unlink()
    with loggers_kept():
        stages.store_labels(stage_cfg(data, tmp_path / "stopped"))
    assert len(labeled) == 10


def test_labels_that_other_settings_have_made_are_refused(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the run has learned from them."""
    model = trainer_of(NAME, data, tmp_path / "other").teacher
    monkeypatch.setattr(stages, "SSODTrainer", lambda _: MagicMock(student=model))

    def store(begun: bool = False, **keys: Any) -> None:
        with loggers_kept():
            stages.store_labels(stage_cfg(data, tmp_path, **keys), begun)

    store()
    store(**{"SSOD.STAC.SCORE_THRESHOLD": 0.5, "SOLVER.CHECKPOINT_PERIOD": 4})
    longer = {"SOLVER.MAX_ITER": 9, "INPUT.MIN_SIZE_TEST": 40}
    said = r"pseudo-labels that were made with INPUT\.MIN_SIZE_TEST .* and it is 40 now .*MAX_ITER"
    with pytest.raises(ConfigError, match=said):
        store(**longer)
    store(begun=True, **longer)
    with pytest.raises(ConfigError, match=r"SSOD\.STAC\.OWN_SIZE False, and it is True now"):
        store(**{"SSOD.STAC.OWN_SIZE": True})
    with pytest.raises(ConfigError, match=r"made with the labeled images '[0-9a-f]{12}', and it"):
        store(**{"DATASETS.LABELED_FOLD": 2})
    folder = Path(stage_cfg(data, tmp_path).OUTPUT_DIR) / "stac"
    # An earlier version knew fewer keys, and no images.
    known = json.loads((folder / "made_by.json").read_text())
    for key in ("SOLVER.ON_NONFINITE", "the labeled images"):
        known.pop(key)
    (folder / "made_by.json").write_text(json.dumps(known))
    store()
    (folder / "labels.json").unlink()
    # What is there of them counts as much.
    with pytest.raises(ConfigError, match="made with SEED"):
        store(**{"SEED": 5})
    for path in folder.glob("chunk_*.json"):
        path.unlink()
    store(**{"SEED": 5})


def test_the_first_stage_trains_on_the_labeled_share(data: TinyDataset, tmp_path: Path) -> None:
    first = stages.labeled_stage(stage_cfg(data, tmp_path), tmp_path / "first")
    assert first.SSOD.METHOD == "Supervised"
    assert first.SOLVER.IMS_PER_BATCH == 2
    assert first.SOLVER.MAX_ITER == 6


def test_stored_labels_are_refined_by_nothing(data: TinyDataset, tmp_path: Path) -> None:
    keys = {"TEST.RANK_BY_QUALITY": True, "TEST.VARIANCE_VOTING.ENABLED": True}
    head = {"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "kl"}
    first = stages.labeled_stage(stage_cfg(data, tmp_path, **head, **keys), tmp_path / "first")
    assert not first.TEST.RANK_BY_QUALITY
    assert not first.TEST.VARIANCE_VOTING.ENABLED


@pytest.mark.parametrize(("own_size", "short_side"), [(False, 40), (True, 0)])
def test_images_are_labeled_at_the_size_of_tests_or_at_their_own(
    data: TinyDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_size: bool,
    short_side: int,
) -> None:
    """Whatever the views of training and the batches of tests are."""
    keys = {
        "DATALOADER.NUM_WORKERS": 2,
        "INPUT.MIN_SIZE_TEST": 40,
        "INPUT.MIN_SIZE_TRAIN": (20, 30),
        "TEST.IMS_PER_BATCH": 4,
    }
    cfg = stage_cfg(data, tmp_path, **{"SSOD.STAC.OWN_SIZE": own_size, **keys})
    sizes = []

    def label_images(
        model: Any, records: Any, mapper: EvaluationMapper, folder: Path, workers: int
    ) -> None:
        sizes.extend(tuple(mapper(record)["image"].shape[1:]) for record in records)
        # Of images at their own size nobody knows how many fit into shared memory.
        assert workers == (0 if own_size else 2)

    for name in ("labeled_stage", "merge_chunks"):
        monkeypatch.setattr(stages, name, lambda *_: cfg)
    monkeypatch.setattr(stages, "SSODTrainer", lambda _: MagicMock())
    monkeypatch.setattr(stages, "label_images", label_images)
    stages.store_labels(cfg)
    assert set(sizes) == {(40, 60) if short_side else SIZE}


def test_labels_depend_on_neither_views_nor_batches(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trainer_of(NAME, data, tmp_path / "run").teacher
    monkeypatch.setattr(stages, "SSODTrainer", lambda _: MagicMock(student=model))
    written = []
    for number, (sizes, batch) in enumerate((((20, 30), 4), ((50, 60), 8))):
        keys = {"INPUT.MIN_SIZE_TRAIN": sizes, "SOLVER.IMS_PER_BATCH": batch}
        keys |= {"TEST.IMS_PER_BATCH": batch // 4, "SSOD.STRONG_VIEW.MAX_ROTATE": 5.0 * number}
        cfg = stage_cfg(data, tmp_path / str(number), **keys)
        with loggers_kept():
            stages.store_labels(cfg)
        written.append((Path(cfg.OUTPUT_DIR) / "stac" / "labels.json").read_bytes())
    assert len(json.loads(written[0])["annotations"]) > 8
    assert written[0] == written[1]


def test_labels_are_boxes_of_the_image_at_whatever_size_it_is_labeled(
    data: TinyDataset, tmp_path: Path
) -> None:
    run = trainer_of(NAME, data, tmp_path)
    for short_side in (0, 40):
        folder = tmp_path / str(short_side)
        folder.mkdir()
        mapper = EvaluationMapper(short_side, 1333, "RGB")
        stages.label_images(run.teacher, run.pools.unlabeled, mapper, folder)
        lines = json.loads((folder / "chunk_00000.json").read_text())
        assert {(line["height"], line["width"]) for line in lines} == {SIZE}
        boxes = torch.tensor([box["corners"] for line in lines for box in line["boxes"]])
        assert len(boxes) > 8
        # Over the whole image, and not beyond it.
        height, width = SIZE
        assert (boxes <= torch.tensor([width, height] * 2)).all()
        assert boxes[:, 2].max() > 0.9 * width


def test_nothing_of_the_first_stage_but_its_detector_is_left_while_images_are_labeled(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the trainer nor its loading processes."""
    cfg = stage_cfg(data, tmp_path, **{"DATASETS.TEST": (), "DATALOADER.NUM_WORKERS": 1})
    train, trainers, loading = SSODTrainer.train, [], set()
    of_others = set(multiprocessing.active_children())

    def train_and_look(trainer: SSODTrainer) -> None:
        trainers.append(weakref.ref(trainer))
        train(trainer)
        loading.update(set(multiprocessing.active_children()) - of_others)

    def look(model: Any, *_: Any) -> None:
        assert isinstance(model, SemiSupervisedRCNN)
        assert [trainer() for trainer in trainers] == [None]
        assert not loading & set(multiprocessing.active_children())

    monkeypatch.setattr(SSODTrainer, "train", train_and_look)
    monkeypatch.setattr(stages, "label_images", look)
    monkeypatch.setattr(stages, "merge_chunks", lambda *_: None)
    gc.disable()
    try:
        with loggers_kept():
            stages.store_labels(cfg)
    finally:
        gc.enable()
    assert len(loading) == 1


def test_labels_are_the_same_however_many_processes_load_images(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of chunks that are left, and of images that cannot be read."""
    monkeypatch.setattr(stages, "CHUNK", 3)
    run = trainer_of(NAME, data, tmp_path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    records = [*run.pools.unlabeled]
    records[4] = {"file_name": str(broken)}
    mapper = EvaluationMapper(40, 1333, "RGB")
    here = os.getpid()
    monkeypatch.setattr(
        EvaluationMapper, "__call__", _noting(EvaluationMapper.__call__, tmp_path / "pids")
    )
    written = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        (folder / "chunk_00000.json").write_text("[]")
        stages.label_images(run.teacher, records, mapper, folder, workers)
        written.append([path.read_text() for path in sorted(folder.iterdir())])
        pids = set((tmp_path / "pids").read_text().split())
        assert (str(here) in pids) == (workers == 0)
        (tmp_path / "pids").unlink()
    assert written[0] == written[1]
    lines = [line for text in written[0] for line in json.loads(text)]
    assert [line["file_name"] for line in lines] == [r["file_name"] for r in records[3:]]
    assert lines[1] == {"file_name": str(broken), "height": 0, "width": 0, "boxes": []}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_reached_is_not_stored_without_labels(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The run would learn without it to its end; what is done before is kept."""
    monkeypatch.setattr(stages, "CHUNK", 3)
    run = trainer_of(NAME, data, tmp_path)
    gone = tmp_path / "gone.png"
    records = [*run.pools.unlabeled]
    shutil.copy(records[4]["file_name"], tmp_path / "kept.png")
    records[4] = {"file_name": str(gone)}
    mapper, folder = EvaluationMapper(40, 1333, "RGB"), tmp_path / "labels"
    folder.mkdir()
    with pytest.raises(SourceError, match=r"gone\.png: there is no such file\. .* put it back"):
        stages.label_images(run.teacher, records, mapper, folder, workers)
    assert [path.name for path in folder.iterdir()] == ["chunk_00000.json"]
    (tmp_path / "kept.png").rename(gone)
    stages.label_images(run.teacher, records, mapper, folder, workers)
    lines = json.loads((folder / "chunk_00001.json").read_text())
    assert [line["height"] for line in lines] == [SIZE[0]] * 3


def _noting(call: Any, path: Path) -> Any:
    """A mapper's call that writes down which process makes it."""

    def noting(mapper: EvaluationMapper, record: dict[str, Any]) -> Any:
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return call(mapper, record)

    return noting


@pytest.mark.parametrize("last", [None, "model_0000001.pth"])
def test_the_first_process_alone_reads_the_last_checkpoint(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str | None
) -> None:
    cfg = stage_cfg(data, tmp_path)
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    (folder / "model_0000001.pth").write_bytes(b"not read here")
    path = None if last is None else str(folder / last)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda own: [(path, None), own])
    asked = []
    monkeypatch.setattr(stages, "SSODTrainer", lambda _: MagicMock())
    monkeypatch.setattr(stages, "store_labels", lambda _, begun: asked.append(begun))
    stages.start(cfg, resume=True)
    assert asked == [last is not None]
