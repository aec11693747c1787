"""STAC: labels that are made once, which of them count, and what the two halves weigh."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from dre_ssod.data.mappers import STORED, StoredLabelMapper
from dre_ssod.data.splits.pools import Pools
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.errors import ConfigError
from dre_ssod.geometry import clip_boxes, map_boxes
from dre_ssod.methods import Clock
from dre_ssod.methods.parts.stored_labels import confident, with_stored_labels
from dre_ssod.methods.stac import STAC
from tests.factories import SIZE, tiny_cfg, unlabeled_sample
from tests.methods.every import batch_of, config_of, losses_of, trainer_of
from tests.tiny_dataset import TinyDataset

NAME = "STAC"
CLASSES = ["cat", "dog"]


# Labels


def detections(scores: Sequence[float]) -> Instances:
    boxes = torch.arange(4.0 * len(scores)).reshape(-1, 4)
    labels = Instances((64, 96), gt_boxes=Boxes(boxes), gt_scores=torch.tensor(scores))
    labels.gt_classes = torch.zeros(len(scores), dtype=torch.int64)
    return labels


@pytest.mark.parametrize(
    ("scores", "kept"), [((0.95, 0.91, 0.5), (0.95, 0.91)), ((0.3, 0.4), (0.4,)), ((0.9,), (0.9,))]
)
def test_an_image_without_a_sure_box_keeps_its_best(
    scores: Sequence[float], kept: Sequence[float]
) -> None:
    assert confident(detections(scores), 0.9).gt_scores.tolist() == pytest.approx(list(kept))


def write_labels(path: Path, names: Sequence[str], boxes: Sequence[Any]) -> Path:
    """A COCO file; ``boxes`` are (image, category, bbox, score)."""
    content = {
        "images": [
            {"id": i, "file_name": name, "height": 64, "width": 96} for i, name in enumerate(names)
        ],
        "annotations": [
            {"image_id": i, "category_id": c, "bbox": list(bbox), "score": score}
            for i, c, bbox, score in boxes
        ],
        # Not in the order of the run's classes.
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    path.write_text(json.dumps(content))
    return path


def pools_of(*names: str) -> Pools:
    return Pools([], [{"file_name": name} for name in names], CLASSES, None, ())


def test_labels_are_found_by_the_end_of_a_file_name_and_classes_by_name(tmp_path: Path) -> None:
    path = write_labels(
        tmp_path / "labels.json",
        ["a/1.png", "b/1.png", "2.png"],
        [(0, 7, (1, 2, 3, 4), 0.95), (1, 3, (5, 6, 7, 8), 0.5), (1, 3, (0, 0, 9, 9), 0.91)],
    )
    found = with_stored_labels(pools_of("/x/a/1.png", "/x/b/1.png", "/x/2.png"), path, 0.9)
    assert [record["file_name"] for record in found.unlabeled] == ["/x/a/1.png", "/x/b/1.png"]
    first, second = (record[STORED] for record in found.unlabeled)
    assert first.gt_boxes.tensor.tolist() == [[1.0, 2.0, 4.0, 6.0]]
    assert (first.gt_classes.tolist(), second.gt_classes.tolist()) == ([1], [0])
    assert second.gt_boxes.tensor.tolist() == [[0.0, 0.0, 9.0, 9.0]]


def test_a_file_that_knows_no_image_is_refused(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "labels.json", ["1.png"], [(0, 3, (1, 2, 3, 4), 0.9)])
    with pytest.raises(ConfigError, match="no detection on any of the 1 unlabeled images"):
        with_stored_labels(pools_of("/x/2.png"), path, 0.9)


def test_images_that_a_file_does_not_know_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_labels(tmp_path / "labels.json", ["/x/1.png"], [(0, 3, (1, 2, 3, 4), 0.9)])
    with caplog.at_level("WARNING", logger="dre_ssod"):
        with_stored_labels(pools_of("/x/1.png"), path, 0.9, of_run=True)
        assert not caplog.records
        assert len(with_stored_labels(pools_of("/x/1.png", "/x/2.png"), path, 0.9).unlabeled) == 1
    assert "1 unlabeled images are not in" in caplog.text
    # A run labels each of its own images.
    for others in (("/x/1.png", "/x/2.png"), ("/x/2.png",)):
        with pytest.raises(ConfigError, match="of other unlabeled images than DATASETS"):
            with_stored_labels(pools_of(*others), path, 0.9, of_run=True)
    # Of images that are gone since, labels are left over.
    path = write_labels(
        tmp_path / "labels.json", ["/x/1.png", "/x/2.png"], [(0, 3, (1, 2, 3, 4), 0.9)]
    )
    assert len(with_stored_labels(pools_of("/x/1.png"), path, 0.9, of_run=True).unlabeled) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"images": [], "annotations": [], "categories": 3}'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"labels\.json: not a COCO file with a score.*cat, dog"):
        with_stored_labels(pools_of("/x/2.png"), path, 0.9)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "labels.json", ["1.png"], [(0, 3, (1, 2, 3, 4), 0.9)])
    pools = Pools([], [{"file_name": "1.png"}], ["cat", "bird"], None, ())
    with pytest.raises(ConfigError, match="the classes cat, bird"):
        with_stored_labels(pools, path, 0.9)


# Views


def test_labels_of_a_run_are_found_again_where_its_images_have_moved(tmp_path: Path) -> None:
    def pools(root: str, *names: str) -> Pools:
        records = [{"file_name": f"{root}/{name}"} for name in names]
        return Pools([], records, CLASSES, None, ())

    path = tmp_path / "labels.json"
    images = [{"id": n, "file_name": f"/old/{n}.png", "height": 9, "width": 9} for n in range(2)]
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.9}
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": [box], "categories": categories}
    path.write_text(json.dumps(content))
    (found,) = with_stored_labels(pools("/new", "0.png", "1.png"), path, 0.5, True).unlabeled
    assert found["file_name"] == "/new/1.png"
    # In another order they may be other images of that name.
    with pytest.raises(ConfigError, match=r"of other unlabeled images .* such as /new/1\.png"):
        with_stored_labels(pools("/new", "1.png", "0.png"), path, 0.5, True)


def test_stored_boxes_follow_the_image(data: TinyDataset) -> None:
    """Resized by 0.5 they are half as large, in the strong view as its matrix says."""
    cfg = tiny_cfg(**{"INPUT.MIN_SIZE_TRAIN": (32, 32)})
    record = {"file_name": str(data.root / "more" / "u0.png"), STORED: detections((0.9, 0.8))}
    sample = StoredLabelMapper(ViewRecipe.weak(cfg))(record, np.random.default_rng(0))
    assert sample.labels is not None
    stored = record[STORED].gt_boxes.tensor  # type: ignore[attr-defined]
    torch.testing.assert_close(sample.labels.gt_boxes.tensor, 0.5 * stored)
    assert sample.labels.gt_scores.tolist() == pytest.approx([0.9, 0.8])
    assert sample.weak.size == (32, 48)
    # Never flipped.
    assert torch.equal(sample.weak.matrix, torch.diag(torch.tensor([0.5, 0.5, 1.0]).double()))


def test_a_view_that_stays_has_the_stored_boxes_and_one_that_moves_their_hulls(
    data: TinyDataset,
) -> None:
    mapper = StoredLabelMapper(ViewRecipe.weak(tiny_cfg(**{"INPUT.MIN_SIZE_TRAIN": SIZE[:1] * 2})))
    record = {"file_name": str(data.root / "more" / "u0.png"), STORED: detections((0.9, 0.8))}
    stored = torch.tensor([[20.0, 16.0, 40.0, 30.0], [50.0, 20.0, 70.0, 40.0]])
    record[STORED].gt_boxes = Boxes(stored)  # type: ignore[attr-defined]
    method, kinds = STAC(STAC.Settings(), Path()), set()
    teacher = SimpleNamespace(device=torch.device("cpu"))
    for seed in range(12):
        sample = mapper(record, np.random.default_rng(seed))
        labels = method.label(teacher, [sample], Clock(0, 0, 1))  # type: ignore[arg-type]
        (found,) = labels.cls.instances()
        stays = torch.equal(sample.strong.matrix, torch.eye(3).double())
        expected = stored if stays else map_boxes(stored, sample.strong.matrix)
        expected = clip_boxes(expected, sample.strong.size)
        torch.testing.assert_close(found.gt_boxes.tensor, expected)
        kinds.add(stays)
    assert kinds == {True, False}


# Losses


def test_labeled_losses_weigh_a_half_and_unlabeled_ones_half_of_lambda() -> None:
    method = STAC(STAC.Settings(unsup_loss_weight=2.0), Path())
    clock = Clock(0, 0, 10)
    assert method.weight("loss_cls", clock) == 0.5
    assert method.weight("loss_cls_unsup", clock) == 1.0


def test_no_teacher_is_asked_and_weights_change_no_batch(data: TinyDataset, tmp_path: Path) -> None:
    run = trainer_of(NAME, data, tmp_path)
    before = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS)
    expected = losses_of(run, before).unsupervised

    def refuse(*_: Any) -> None:
        raise AssertionError("the teacher was asked")

    for part in run.teacher.children():
        part.forward = refuse
    for parameter in run.teacher.parameters():
        parameter.data.fill_(float("nan"))
    batch = batch_of(run, run.cfg.SSOD.BURN_IN_ITERS)
    for mine, theirs in zip(before.unlabeled, batch.unlabeled, strict=True):
        assert torch.equal(mine.strong.image, theirs.strong.image)
        assert torch.equal(mine.labels.gt_boxes.tensor, theirs.labels.gt_boxes.tensor)
    for name, value in losses_of(run, batch).unsupervised.items():
        assert torch.equal(value, expected[name])


def test_a_sample_without_labels_is_refused() -> None:
    method = STAC(STAC.Settings(), Path())
    with pytest.raises(ValueError, match=r"unlabeled0\.png has no stored labels"):
        method.label(None, [unlabeled_sample(0)], Clock(0, 0, 1))  # type: ignore[arg-type]


def test_a_diagnosis_of_the_teacher_is_refused(data: TinyDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'' with the method STAC, which has no teacher"):
        config_of(NAME, data, tmp_path, **{"TEST.PSEUDO_LABEL_SET": data.labeled})
