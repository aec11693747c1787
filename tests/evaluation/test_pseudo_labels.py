"""Pseudo-label quality: the matching, the figures, and that training is blind to them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from dre_ssod.data.images import read_image
from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.data.views.views import make_view
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.errors import ConfigError
from dre_ssod.evaluation.pseudo_labels import PseudoLabelProbe, QualityTally, measure
from dre_ssod.methods import Clock, build_method
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.structures import UnlabeledSample
from dre_ssod.teacher import observe
from tests.engine.steps import completed
from tests.engine.test_trainer import assert_same, checkpoint, metrics_of
from tests.factories import SIZE, tiny_cfg, tiny_model
from tests.tiny_dataset import TinyDataset, loggers_kept, tiny_run

Box = tuple[float, float, float, float]
ONE: Box = (0.0, 0.0, 10.0, 10.0)
TWO: Box = (20.0, 0.0, 40.0, 10.0)
SHIFTED: Box = (0.0, 0.0, 10.0, 8.0)
"""IoU 0.8 with ONE."""
FAR: Box = (60.0, 30.0, 70.0, 40.0)


def objects(*entries: tuple[Box, int]) -> Instances:
    boxes = torch.tensor([box for box, _ in entries]).reshape(-1, 4)
    classes = torch.tensor([label for _, label in entries], dtype=torch.int64)
    return Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=classes)


def labels(*entries: tuple[Box, int, float]) -> Instances:
    found = objects(*((box, label) for box, label, _ in entries))
    found.gt_scores = torch.tensor([score for _, _, score in entries])
    return found


def counts(tally: QualityTally) -> list[list[float]]:
    return [a.tolist() for a in (tally.boxes, tally.matched, tally.objects, tally.iou)]


def test_a_hand_counted_image() -> None:
    tally = measure(
        labels((SHIFTED, 0, 0.9), (TWO, 1, 0.8), (FAR, 1, 0.95)),
        objects((ONE, 0), (TWO, 0)),
        objects(),
        num_classes=2,
    )
    # SHIFTED finds ONE; TWO has the wrong class and FAR nothing.
    boxes, matched, truths, iou = counts(tally)
    assert (boxes, matched, truths) == ([1, 2], [1, 0], [2, 0])
    assert iou == pytest.approx([0.8, 0.0])
    figures = tally.figures(["a", "b"])
    assert figures == pytest.approx(
        {
            "precision": 1 / 3,
            "recall": 1 / 2,
            "mean_iou": 0.8,
            "boxes_per_image": 3.0,
            "objects_per_image": 2.0,
            "precision-a": 1.0,
            "recall-a": 0.5,
            "precision-b": 0.0,
        }
    )


def test_an_object_is_found_once_and_by_the_higher_score() -> None:
    tally = measure(
        labels((ONE, 0, 0.8), (SHIFTED, 0, 0.9)), objects((ONE, 0)), objects(), num_classes=1
    )
    boxes, matched, truths, iou = counts(tally)
    assert (boxes, matched, truths) == ([2], [1], [1])
    assert iou == pytest.approx([0.8])


def test_the_bound_of_a_match_is_an_iou_of_one_half() -> None:
    half: Box = (0.0, 0.0, 10.0, 5.0)
    less: Box = (0.0, 0.0, 10.0, 4.99)
    assert measure(labels((half, 0, 0.9)), objects((ONE, 0)), objects(), 1).matched.tolist() == [1]
    assert measure(labels((less, 0, 0.9)), objects((ONE, 0)), objects(), 1).matched.tolist() == [0]


def test_a_box_in_a_crowd_region_is_not_counted_unless_it_finds_an_object() -> None:
    crowd = objects(((0.0, 0.0, 50.0, 50.0), 0))
    inside = labels((ONE, 0, 0.9), (TWO, 0, 0.8), (FAR, 0, 0.7))
    assert counts(measure(inside, objects((ONE, 0)), crowd, 1))[:3] == [[2], [1], [1]]
    other = objects(((0.0, 0.0, 50.0, 50.0), 1))
    assert counts(measure(inside, objects((ONE, 0)), other, 2))[0] == [3, 0]


@pytest.mark.parametrize("crowd", [objects(), objects((ONE, 0))])
def test_nothing_found_and_nothing_there(crowd: Instances) -> None:
    empty = measure(labels(), objects(), crowd, 2)
    assert empty.figures(["a", "b"]) == {"boxes_per_image": 0.0, "objects_per_image": 0.0}
    missed = measure(labels(), objects((ONE, 1)), crowd, 2).figures(["a", "b"])
    assert missed["recall"] == missed["recall-b"] == 0.0
    assert "precision" not in missed
    assert "mean_iou" not in missed
    assert measure(labels((FAR, 0, 0.9)), objects(), crowd, 2).figures(["a", "b"])["precision"] == 0


def test_tallies_of_parts_add_up() -> None:
    one = measure(labels((ONE, 0, 0.9)), objects((ONE, 0)), objects(), 2)
    two = measure(labels((TWO, 1, 0.9)), objects((ONE, 0)), objects(), 2)
    both = one + two + QualityTally.empty(2)
    assert both.images == 2
    assert both.figures(["a", "b"])["precision"] == 0.5
    assert both.figures(["a", "b"])["recall"] == 0.5


CLASSES = ["class0", "class1", "class2"]
CLOCK = Clock(iteration=5, burn_in=0, max_iter=10)


def probe_cfg(data: TinyDataset, **overrides: object) -> CfgNode:
    return tiny_cfg(**{"TEST.PSEUDO_LABEL_SET": data.labeled, **overrides})


def test_it_is_off_by_default(data: TinyDataset) -> None:
    assert PseudoLabelProbe.from_config(tiny_cfg(), build_method(tiny_cfg()), [], CLASSES) is None


def test_the_sample_is_fixed_grows_and_leaves_labeled_images_out(data: TinyDataset) -> None:
    records = load_one_labeled(data.labeled)
    files = [record["file_name"] for record in records]

    def sample(number: int, labeled: list[dict[str, Any]]) -> list[str]:
        cfg = probe_cfg(data, **{"TEST.PSEUDO_LABEL_IMAGES": number})
        probe = PseudoLabelProbe.from_config(cfg, build_method(cfg), labeled, CLASSES)
        assert probe is not None
        return [record["file_name"] for record in probe.records]

    assert sample(3, []) == sample(5, [])[:3]
    assert len(set(sample(5, []))) == 5
    assert sorted(sample(100, records[:2])) == sorted(files[2:])
    # Labels of a further round name images by links.
    link = data.root / "train" / "link.png"
    link.symlink_to(files[0])
    linked = [{**records[0], "file_name": str(link)}, records[1]]
    assert sorted(sample(100, linked)) == sorted(files[2:])


def test_a_set_without_hidden_images_or_with_other_classes_is_refused(data: TinyDataset) -> None:
    records = load_one_labeled(data.labeled)
    cfg = probe_cfg(data)
    with pytest.raises(ConfigError, match="no image that the run does not train on"):
        PseudoLabelProbe.from_config(cfg, build_method(cfg), records, CLASSES)
    with pytest.raises(ConfigError, match="has the classes class0, class1, class2, but"):
        PseudoLabelProbe.from_config(cfg, build_method(cfg), [], ["class0"])


def test_the_probe_measures_what_the_teacher_would_teach(data: TinyDataset) -> None:
    """Objects that are the teacher's own pseudo-labels, mapped to the image, are all found."""
    cfg = probe_cfg(data, **{"SSOD.SCORE_THRESHOLD": 0.2, "INPUT.MIN_SIZE_TEST": 48})
    teacher = tiny_model(cfg, spread=0.5).eval()
    probe = PseudoLabelProbe.from_config(cfg, build_method(cfg), [], CLASSES)
    assert probe is not None
    seen: list[int] = []
    for record in probe.records:
        record["annotations"] = []
    nothing = probe.measure(teacher, CLOCK)
    assert nothing["objects_per_image"] == 0.0
    assert nothing["boxes_per_image"] > 1.0
    for record in probe.records:
        (found,) = _detections(teacher, probe, record)
        seen.append(len(found))
        record["annotations"] = [
            {"bbox": (box * SIZE[0] / 48).tolist(), "bbox_mode": 0, "category_id": int(label)}
            for box, label in zip(found.gt_boxes.tensor, found.gt_classes, strict=True)
        ]
    figures = probe.measure(teacher, CLOCK)
    assert figures["precision"] == figures["recall"] == 1.0
    assert figures["mean_iou"] == pytest.approx(1.0, abs=1e-4)
    assert figures["boxes_per_image"] == figures["objects_per_image"] == np.mean(seen)


def test_what_is_drawn_depends_on_the_image_alone(
    data: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on what the run has drawn before, which goes on as it would, nor on the processes."""
    keys = {"SSOD.METHOD": "RobustTeacher", "MODEL.META_ARCHITECTURE": "ImageClassRCNN"}
    keys |= {"SSOD.ROBUST_TEACHER.JITTER_SCALE": 0.5, "SSOD.ROBUST_TEACHER.LOWEST_THRESHOLD": 0.1}
    cfg = probe_cfg(data, **keys)
    teacher = tiny_model(cfg, spread=0.5).eval()
    probe = PseudoLabelProbe.from_config(cfg, build_method(cfg), [], CLASSES)
    assert probe is not None
    tallies: list[QualityTally] = []
    monkeypatch.setattr(comm, "all_gather", lambda tally: tallies.append(tally) or [tally])
    found = []
    for seed, processes in ((0, 1), (1, 1), (2, 2), (3, 3)):
        tallies.clear()
        monkeypatch.setattr(comm, "get_world_size", lambda count=processes: count)
        for rank in range(processes):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            probe.measure(teacher, CLOCK)
            assert torch.equal(torch.get_rng_state(), before)
        found.append(np.array(counts(sum(tallies, QualityTally.empty(3)))))
    assert found[0][0].sum() > 8
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-9)


def test_a_broken_image_is_named_and_left_out(
    data: TinyDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = probe_cfg(data)
    probe = PseudoLabelProbe.from_config(cfg, build_method(cfg), [], CLASSES)
    assert probe is not None
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    probe.records[0]["file_name"] = str(broken)
    with loggers_kept(), caplog.at_level(logging.WARNING):
        logging.getLogger("dre_ssod").propagate = True
        figures = probe.measure(tiny_model(cfg).eval(), CLOCK)
    assert figures["objects_per_image"] == 3.0
    assert str(broken) in caplog.text


def _detections(
    teacher: SemiSupervisedRCNN, probe: PseudoLabelProbe, record: dict[str, Any]
) -> list[Instances]:
    image = read_image(record["file_name"], probe.recipe.image_format)
    view = make_view(image, probe.recipe, np.random.default_rng(5))
    assert min(view.size) == 48
    return observe(teacher, [UnlabeledSample("", view, view)], 0.2).detections


def _trained(cfg: CfgNode) -> SSODTrainer:
    with loggers_kept():
        completed(cfg)
        seed_all_rng(cfg.SEED)
        trainer = SSODTrainer(cfg)
        trainer.resume_or_load(False)
        trainer.train()
    return trainer


def test_a_run_with_the_diagnosis_trains_to_the_same_bits(
    data: TinyDataset, tmp_path: Path
) -> None:
    plain = _trained(tiny_run(data, tmp_path / "plain"))
    probed = _trained(
        tiny_run(
            data,
            tmp_path / "probed",
            **{"TEST.PSEUDO_LABEL_SET": data.labeled, "TEST.PSEUDO_LABEL_IMAGES": 3},
        )
    )
    for part in ("model", "student"):
        first, second = (checkpoint(tmp_path / name)[part] for name in ("plain", "probed"))
        assert_same(first, second)
    found = metrics_of(probed)
    assert found["pseudo_labels/objects_per_image"] == 3.0
    assert "pseudo_labels/boxes_per_image" in found
    assert not [name for name in metrics_of(plain) if name.startswith("pseudo_labels")]
