"""What each method is expected to do, and runs of it, for the tests that every method passes.

A new method adds one row to ``EXPECTED``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor

from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.structures import FURTHER_VIEWS, StudentLosses, TrainingBatch, UnlabeledSample, View
from tests.engine.models import opinionated
from tests.engine.steps import SAMPLE_ALL, completed
from tests.factories import NUM_CLASSES, SIZE, affine, tiny_cfg, tiny_model
from tests.tiny_dataset import TinyDataset, tiny_run

RPN = frozenset({"loss_rpn_cls_unsup", "loss_rpn_loc_unsup"})
BOX_HEAD = frozenset({"loss_cls_unsup", "loss_box_reg_unsup"})
BOX_LAYERS = ("box_predictor.bbox_pred", "rpn_head.anchor_deltas")
VARIANCE = ("box_predictor.log_variance",)


@dataclass(frozen=True)
class Expected:
    """What is expected of one method.

    Attributes:
        terms: its losses of unlabeled images, by name.
        untrained: parts of parameters' names that those losses must not reach with a gradient.
        overrides: config keys with which the random weights of tests give pseudo-labels.
        prepare: more of them, given the data and a folder for files.
        certain: config keys that take the randomness out of its losses.
        is_live: whether the teacher is the student itself.
        draws: what each process draws for itself, beside sampled regions; ``certain`` turns it off.
        not_union: why two processes are not one process on the union batch even then; "" where they
            are.
        shows_weights: whether panels show how regions weigh in its classification loss.
    """

    terms: frozenset[str] = RPN | BOX_HEAD
    untrained: tuple[str, ...] = VARIANCE
    overrides: Mapping[str, Any] = field(default_factory=lambda: {"SSOD.SCORE_THRESHOLD": 0.2})
    prepare: Callable[[TinyDataset, Path], Mapping[str, Any]] = lambda data, folder: {}
    certain: Mapping[str, Any] = field(default_factory=dict)
    is_live: bool = False
    draws: str = ""
    not_union: str = ""
    shows_weights: bool = False


def stored_labels(data: TinyDataset, folder: Path) -> dict[str, Any]:
    """A file with two boxes on every image of the tiny set, sure and unsure."""
    names = [*(data.root / "train").iterdir(), *(data.root / "more").iterdir()]
    images = [
        {"id": number, "file_name": "/".join(name.parts[-2:]), "height": SIZE[0], "width": SIZE[1]}
        for number, name in enumerate(sorted(names))
    ]
    boxes = [
        {"image_id": image["id"], "category_id": 1 + n, "bbox": [x, 6, 30, 40], "score": score}
        for image in images
        for n, x, score in ((0, 5, 0.95), (1, 50, 0.92), (2, 30, 0.3))
    ]
    categories = [{"id": n + 1, "name": f"class{n}"} for n in range(NUM_CLASSES)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return {"SSOD.STAC.LABELS": str(path)}


MIXES = "which views are mixed with which"
JITTERS = "how candidates are jittered"

EXPECTED: dict[str, Expected] = {
    "Supervised": Expected(terms=frozenset()),
    "MeanTeacher": Expected(),
    "MUM": Expected(
        terms=frozenset({"loss_rpn_cls_unsup", "loss_cls_unsup"}),
        untrained=BOX_LAYERS + VARIANCE,
        overrides={"SSOD.UNBIASED_TEACHER.SCORE_THRESHOLD": 0.2, "SSOD.MUM.GROUP": 2},
        certain={"SSOD.MUM.PROBABILITY": 0.0},
        draws=MIXES,
    ),
    "RobustTeacher": Expected(
        terms=frozenset({"loss_rpn_cls_unsup", "loss_cls_unsup", "loss_image_unsup"}),
        untrained=BOX_LAYERS + VARIANCE,
        overrides={"MODEL.META_ARCHITECTURE": "ImageClassRCNN"},
        certain={"SSOD.ROBUST_TEACHER.PASTE": 0.0, "SSOD.ROBUST_TEACHER.JITTER_COPIES": 0},
        draws=f"{JITTERS}, and whether objects are pasted",
    ),
    "LabelMatch": Expected(),
    "RPLLike": Expected(overrides={"SSOD.RPL_LIKE.SCORE_THRESHOLD": 0.2}, shows_weights=True),
    "MixPL": Expected(
        overrides={
            "SSOD.MIXPL.SCORE_THRESHOLD": 0.2,
            "SSOD.MIXPL.OLDER_VIEWS": 2,
            "SSOD.STRONG_VIEW.ERASE_COUNT": (0, 0),
        },
        certain={"SSOD.MIXPL.ERASE_COUNT": (0, 0)},
        draws=f"{MIXES}, and what is erased",
        not_union="it mixes with its own older views, and a view without a label takes all out",
    ),
    "InstantTeaching": Expected(
        overrides={"SSOD.INSTANT_TEACHING.SCORE_THRESHOLD": 0.2},
        certain={"SSOD.INSTANT_TEACHING.MIX": 0.0},
        draws=MIXES,
        is_live=True,
    ),
    "InstantTeachingStar": Expected(
        overrides={
            "MODEL.META_ARCHITECTURE": "PairedRCNN",
            # The average with what the judge says is below a detection's own score.
            "SSOD.INSTANT_TEACHING.SCORE_THRESHOLD": 0.15,
            # So that every level of both detectors is reached.
            **SAMPLE_ALL,
        },
        certain={
            "SSOD.INSTANT_TEACHING.MIX": 0.0,
            # Fewer labels, since of a hundred some score so nearly alike that rounding sorts them.
            "SSOD.INSTANT_TEACHING.SCORE_THRESHOLD": 0.4,
        },
        draws=MIXES,
        is_live=True,
    ),
    "ISMTLike": Expected(
        overrides={
            "MODEL.META_ARCHITECTURE": "TwoHeadedRCNN",
            "MODEL.ROI_BOX_HEAD.DROP_BLOCK": 0.1,
            "SSOD.ISMT_LIKE.SCORE_THRESHOLD": 0.2,
            "SSOD.ISMT_LIKE.MIN_SCORE": 0.1,
        },
        certain={"MODEL.ROI_BOX_HEAD.DROP_BLOCK": 0.0},
        draws="which features DropBlock drops",
    ),
    "CSTLike": Expected(
        terms=frozenset({"loss_rpn_cls_unsup", "loss_cls_unsup"}),
        untrained=BOX_LAYERS + VARIANCE,
        overrides={
            "MODEL.META_ARCHITECTURE": "PairedRCNN",
            # From 0.2 on, one label overlaps two anchors equally, and rounding picks one.
            "SSOD.UNBIASED_TEACHER.SCORE_THRESHOLD": 0.2,
            # So that every level of both detectors is reached.
            **SAMPLE_ALL,
        },
        # With the usual seed a label overlaps two anchors equally, and rounding picks one.
        certain={"SEED": 5},
        shows_weights=True,
    ),
    "DRE": Expected(shows_weights=True),
    "STAC": Expected(prepare=stored_labels, is_live=True),
    "SoftTeacher": Expected(
        overrides={
            "SSOD.SOFT_TEACHER.SCORE_THRESHOLD": 0.2,
            "SSOD.SOFT_TEACHER.RPN_SCORE": 0.25,
            "SSOD.SOFT_TEACHER.CLS_SCORE": 0.22,
            "SSOD.SOFT_TEACHER.BOX_SPREAD": 1e6,
        },
        certain={"SSOD.SOFT_TEACHER.JITTER_SCALE": 0.0},
        draws=JITTERS,
        shows_weights=True,
    ),
    "UnbiasedTeacherV2": Expected(
        terms=frozenset({"loss_rpn_cls_unsup", "loss_cls_unsup", "loss_box_reg_unsup"}),
        untrained=("rpn_head.anchor_deltas", *VARIANCE),
        overrides={
            "MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA": True,
            "SSOD.UNBIASED_TEACHER.SCORE_THRESHOLD": 0.2,
            "SSOD.UNBIASED_TEACHER_V2.MARGIN": 0.0,
            "SSOD.UNBIASED_TEACHER_V2.CERTAINTY": 0.0,
        },
    ),
    "UnbiasedTeacher": Expected(
        terms=frozenset({"loss_rpn_cls_unsup", "loss_cls_unsup"}),
        untrained=BOX_LAYERS + VARIANCE,
        overrides={"SSOD.UNBIASED_TEACHER.SCORE_THRESHOLD": 0.2},
    ),
}

SHORT = {
    "SOLVER.MAX_ITER": 6,
    "SOLVER.STEPS": (5,),
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "SSOD.BURN_IN_ITERS": 2,
    "TEST.EVAL_PERIOD": 0,
}
"""A run of seconds: two iterations on labels alone, four on all images."""
# Views of one size, since the padding beside an image changes what is found in it.
ONE_SIZE = {"INPUT.MIN_SIZE_TRAIN": (64, 64), "SSOD.BURN_IN_ITERS": 0, **SAMPLE_ALL}
OUT_OF_SIGHT = affine(shift=(10_000.0, 0.0))


def overrides_of(name: str, data: TinyDataset, folder: Path) -> dict[str, Any]:
    """Config keys of a method's tests."""
    expected = EXPECTED[name]
    return {"SSOD.METHOD": name, **expected.overrides, **expected.prepare(data, folder)}


def config_of(name: str, data: TinyDataset, folder: Path, **overrides: Any) -> CfgNode:
    """A checked config of a method on the tiny set."""
    chosen = {**SHORT, **overrides_of(name, data, folder), **overrides}
    return completed(tiny_run(data, folder / "run", **chosen))


def trainer_of(name: str, data: TinyDataset, folder: Path, **overrides: Any) -> SSODTrainer:
    """A trainer whose teacher finds something and whose student is another model."""
    trainer = SSODTrainer(config_of(name, data, folder, **overrides))
    student, teacher = _weights(trainer.cfg.MODEL.dump())
    trainer.student.load_state_dict(student)
    trainer.teacher.load_state_dict(teacher)
    trainer._trainer.iter = trainer.cfg.SSOD.BURN_IN_ITERS
    while not trainer.method.is_warm:
        losses_of(trainer, batch_of(trainer, trainer.cfg.SSOD.BURN_IN_ITERS))
    return trainer


@functools.cache
def _weights(model: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those of a student and of a teacher, drawn once for each MODEL section of a config."""
    cfg = tiny_cfg()
    cfg.MODEL = CfgNode.load_cfg(model)
    student = tiny_model(cfg, seed=1, spread=1.0)
    teacher = opinionated(tiny_model(cfg, seed=2, spread=5.0))
    return student.state_dict(), teacher.state_dict()


def batch_of(trainer: SSODTrainer, iteration: int = 0) -> TrainingBatch:
    """What the loader gives at an iteration."""
    trainer.start_iter = iteration
    batch: TrainingBatch = next(iter(trainer.build_paired_loader()))
    return batch


def losses_of(trainer: SSODTrainer, batch: TrainingBatch) -> StudentLosses:
    """One forward pass, always with the same random numbers."""
    torch.manual_seed(0)
    with EventStorage(0):
        return trainer._trainer.compute_losses(batch)


def out_of_sight(sample: UnlabeledSample) -> UnlabeledSample:
    """The sample with strong views that show nothing of what the weak view does."""
    views = {"strong": sample.strong, "second": sample.second}
    moved = {
        name: view and View(view.image, OUT_OF_SIGHT @ view.matrix) for name, view in views.items()
    }
    return replace(sample, **moved)


def without_boxes(image: dict[str, Any]) -> dict[str, Any]:
    """A labeled image whose boxes are gone, from all of its views."""
    others = [without_boxes(view) for view in image.get(FURTHER_VIEWS, ())]
    found = {**image, "instances": image["instances"][:0]}
    return {**found, FURTHER_VIEWS: others} if others else found


def gradients_of(trainer: SSODTrainer, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of the weighted sum of losses in each trained parameter, zeros where it has none."""
    step = trainer._trainer
    trainer.student.zero_grad()
    sum(step.weight(name) * value for name, value in terms.items()).backward(retain_graph=True)
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in trainer.student.named_parameters()
        if p.requires_grad
    }


def swapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a pair of detectors that have changed places."""
    return {
        name.removeprefix("partner.")
        if name.startswith("partner.")
        else f"partner.{name}": tensor.clone()
        for name, tensor in state.items()
    }
