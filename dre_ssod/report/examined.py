"""The model of a run over its test sets: detections, average precision, mistakes, sigma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from torch import nn
from tqdm import tqdm

from dre_ssod.checkpoints.folder import find_last
from dre_ssod.config.checks import check_config
from dre_ssod.config.effects import check_effects
from dre_ssod.config.keys import without_refining
from dre_ssod.config.reading import read_config
from dre_ssod.data.sources.catalog import class_names
from dre_ssod.data.sources.truth import load_truth
from dre_ssod.deployment.trained_model import check_device, device_of, load_trained
from dre_ssod.errors import ConfigError
from dre_ssod.evaluation.coco import coco_truth, evaluate_all, percent, precision_curves
from dre_ssod.evaluation.evaluators import build_test_loader
from dre_ssod.evaluation.localization import MATCH_IOU, DetectionTable
from dre_ssod.evaluation.localization_data import compare
from dre_ssod.evaluation.reliability import Reliability, reliability
from dre_ssod.inspection.found import best_score, find
from dre_ssod.report.folders import CONFIG, RunFolder
from dre_ssod.report.mistakes import Judged, judge
from dre_ssod.runs.history import RunError, metric_name
from dre_ssod.runs.sets import DatasetRow, describe_test_sets, seen_in_training

MIN_SCORE = 0.5
"""Of detections whose sigma is compared with their true error."""
AP_TOLERANCE = 0.1
"""By which AP computed here may differ from the recorded one, for another machine's rounding."""


@dataclass(frozen=True)
class Precision:
    """Average precision of a set, in percent; NaN where there is none.

    Attributes:
        overall: AP, AP50, AP75.
        ap, ap50: (K,) by class.
        curves: (101, K) precision at IoU 0.5 at the recalls 0, 0.01 ... 1, in [0, 1].
    """

    overall: tuple[float, float, float]
    ap: npt.NDArray[np.float64]
    ap50: npt.NDArray[np.float64]
    curves: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ExaminedSet:
    """A model's detections on one test set.

    Attributes:
        name: of the set.
        content: hash of what it holds.
        class_names: by index.
        records: of its images.
        precision: of all detections.
        lowest_score: of the detections that ``judged`` has; infinite where none found anything.
        judged: by image, in the order of ``records``.
    """

    name: str
    content: str
    class_names: Sequence[str]
    records: Sequence[dict[str, Any]]
    precision: Precision
    lowest_score: float
    judged: Sequence[Judged]


@dataclass(frozen=True)
class ExaminedRun:
    """A run's model over all of its test sets.

    Attributes:
        run: the run.
        model: "teacher" or "student".
        iteration: last finished one of the checkpoint, from 0.
        sets: by name.
        sigma: of the edges of boxes that meet an object; None for a model that predicts none, or
            where nobody has asked.
        notices: where what is found here does not fit what the run has recorded, and of test
            images that it may have trained on.
    """

    run: RunFolder
    model: str
    iteration: int
    sets: Mapping[str, ExaminedSet]
    sigma: Mapping[str, Reliability] | None
    notices: Sequence[str]


def examine_run(
    run: RunFolder,
    model: str,
    opts: Sequence[str] = (),
    lowest_score: float | None = None,
    *,
    with_sigma: bool = True,
) -> ExaminedRun:
    """Run the last model of a run over its test sets.

    Args:
        model: "teacher" or "student".
        opts: config keys and values over those of the run.
        lowest_score: of the detections whose mistakes are told; None for the score at which F1 is
            highest, in each set.
        with_sigma: whether it is compared with true errors, for which a model whose scores and
            boxes do not belong to it anymore goes over the sets once more.

    Raises:
        RunError: if the run has no checkpoint yet.
        ConfigError: if it has no test set, or ``opts`` name a model.
        UserError: if model or data cannot be read.
    """
    named = dict(zip(opts[::2], opts[1::2], strict=False))
    if "MODEL.WEIGHTS" in named:
        raise ConfigError(
            f"MODEL.WEIGHTS {named['MODEL.WEIGHTS']!r} cannot be looked at: detections are those "
            f"of the last checkpoint of each run folder, such as {run.path}. Leave MODEL.WEIGHTS "
            "out of --opts; --model student takes the other model of that checkpoint, and "
            "train_net.py --eval-only MODEL.WEIGHTS FILE evaluates another file."
        )
    checkpoint = find_last(run.path)
    if checkpoint is None:
        raise RunError(
            f"{run.path} holds no checkpoint to look at yet; with --no-model tools/report.py needs "
            "none"
        )
    words = [*opts, "MODEL.WEIGHTS", str(checkpoint.path)]
    cfg = _configure(run, words)
    detector = load_trained(cfg, model)
    rows = describe_test_sets(cfg)
    found = {row.name: _detect(cfg, detector, row.name, run.name) for row in rows}
    sets = {row.name: _test_set(row, found[row.name], lowest_score) for row in rows}
    sigma = None
    if with_sigma and cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE == "kl":
        if cfg.TEST.RANK_BY_QUALITY or cfg.TEST.VARIANCE_VOTING.ENABLED:
            # They replace the scores and the boxes that sigma belongs to.
            plain = _configure(run, without_refining(words))
            detector = load_trained(plain, model)
            what = f"{run.name}, sigma"
            found = {row.name: _detect(plain, detector, row.name, what) for row in rows}
        sigma = _sigma(sets, found)
    notices = [f"{run.name}: detections were made with {' '.join(opts)}."] if opts else []
    for row in rows:
        notices += _contradictions(run, model, checkpoint.iteration, row, sets[row.name])
    seen = seen_in_training(cfg, {name: part.records for name, part in sets.items()})
    notices += [f"{run.name}: {text}" for text in seen]
    return ExaminedRun(
        run=run,
        model=model,
        iteration=checkpoint.iteration,
        sets=sets,
        sigma=sigma,
        notices=notices,
    )


def _configure(run: RunFolder, opts: Sequence[str]) -> CfgNode:
    cfg = read_config(str(run.path / CONFIG), opts)
    check_config(cfg, 1)
    check_effects(cfg, opts[::2], trains=False)
    check_device(cfg, opts[::2])
    cfg.MODEL.DEVICE = device_of(cfg)
    if not cfg.DATASETS.TEST:
        raise ConfigError(
            f"{run.name}: DATASETS.TEST is (), so there is nothing to detect on. tools/report.py "
            "takes labeled images by --opts DATASETS.TEST \"('URI',)\"; with --no-model it needs "
            "none."
        )
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES == 0:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(class_names(cfg.DATASETS.TRAIN))
    return cfg


def _detect(cfg: CfgNode, model: nn.Module, name: str, what: str) -> dict[Any, Instances]:
    """All detections of a set by the id of their image, on the CPU."""
    found = {}
    with inference_context(model), torch.no_grad():
        loader = build_test_loader(cfg, name)
        for batch in tqdm(loader, desc=f"{what}: {name}", unit="batch", disable=None):
            for inputs, output in zip(batch, model(batch), strict=True):
                found[inputs["image_id"]] = output["instances"].to("cpu")
    return found


def _sigma(
    sets: Mapping[str, ExaminedSet], found: Mapping[str, Mapping[Any, Instances]]
) -> dict[str, Reliability]:
    """Of the detections of all sets that meet an object."""
    pairs = [
        (found[name][record["image_id"]], record["annotations"])
        for name, part in sets.items()
        for record in part.records
    ]
    tables = [compare(one[one.scores >= MIN_SCORE], truth) for one, truth in pairs]
    table = DetectionTable.concatenate(tables)
    return reliability(table.residuals[table.ious >= MATCH_IOU])


def _test_set(
    row: DatasetRow, found: Mapping[Any, Instances], lowest_score: float | None
) -> ExaminedSet:
    records = load_truth(row.name)
    classes = list(row.classes or ())
    findings = [find(found[record["image_id"]], record["annotations"]) for record in records]
    lowest = best_score(findings) if lowest_score is None else lowest_score
    return ExaminedSet(
        name=row.name,
        content=row.content.sha256 if row.content else "",
        class_names=classes,
        records=records,
        precision=_precision(records, classes, found),
        lowest_score=lowest,
        judged=[
            judge(finding.above(lowest)) for finding, record in zip(findings, records, strict=True)
        ],
    )


def _precision(
    records: Sequence[dict[str, Any]], classes: Sequence[str], found: Mapping[Any, Instances]
) -> Precision:
    """As :class:`dre_ssod.evaluation.coco.BoxEvaluator` measures it."""
    boxes = [box for key, one in found.items() for box in instances_to_coco_json(one, key)]
    evaluation = evaluate_all(coco_truth(records, classes), boxes)
    ap, ap50, ap75 = map(percent, evaluation.stats[:3])
    curves = precision_curves(evaluation)
    return Precision(
        (ap, ap50, ap75), 100 * curves.mean(axis=(0, 1)), 100 * curves[0].mean(axis=0), curves[0]
    )


def _contradictions(
    run: RunFolder,
    model: str,
    iteration: int,
    row: DatasetRow,
    tested: ExaminedSet,
) -> list[str]:
    """Where data or AP are not those that the run has recorded."""
    recorded = run.set_of("test", row.name)
    if recorded is None:
        return [
            f"{run.name}: {row.name} is not a set that the run was tested on; its curves are of "
            "other data than its detections."
        ]
    found = []
    if recorded["content"] != tested.content:
        found.append(
            f"{run.name}: {row.name} has changed since the run; its curves are of the former data, "
            "its detections of the present ones."
        )
    known = _recorded_ap(run, model, row.name)
    ap = tested.precision.overall[0]
    if iteration not in known:
        found.append(
            f"{run.name}: the run has not evaluated its {model} at iteration {iteration}, from "
            "which the detections are: no recorded AP confirms them."
        )
    elif not abs(known[iteration] - ap) <= AP_TOLERANCE:
        found.append(
            f"{run.name}: AP of the {model} on {row.name} is {ap:.2f} here, but the run recorded "
            f"{known[iteration]:.2f} at iteration {iteration}: data, program, settings or the "
            "checkpoint are not those of then."
        )
    return found


def _recorded_ap(run: RunFolder, model: str, name: str) -> dict[int, float]:
    """AP on a test set by iteration; its figures bear no name where it was the only one."""
    tested = [[r["name"] for r in e["datasets"] if r["role"] == "test"] for e in run.trainings]
    found: dict[int, float] = {}
    for dataset in ["", name] if [name] in tested else [name]:
        if series := run.history.find(metric_name(model, dataset, "AP")):
            found |= zip(series.iterations, series.values, strict=True)
    return found
