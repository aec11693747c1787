"""The sets of a run: what they hold, and a refusal of test sets that cannot be right."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import quote

from detectron2.config import CfgNode
from detectron2.utils import comm
from tabulate import tabulate

from dre_ssod.data.records import objects_of
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import class_names, load_one_labeled, load_unlabeled
from dre_ssod.data.sources.shards import ShardRecords
from dre_ssod.data.sources.voc import is_voc
from dre_ssod.data.splits.pools import Pools, without_known
from dre_ssod.data.splits.split import hash_ids
from dre_ssod.data.usable import why_no_boxes
from dre_ssod.errors import ConfigError, SourceError, printable
from dre_ssod.evaluation.coco import COCO_DETECTIONS
from dre_ssod.runs.contents import SetContent, by_role, check_agreement

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetRow:
    """One set of a run.

    Attributes:
        role: "labeled", "unlabeled" or "test".
        name: as in the config.
        images: number of images.
        sha256: SHA-256 (hex) of the image ids, sorted, joined by newlines; of an unlabeled set of
            shards, of what tells their images from others.
        classes: names by index; None for an unlabeled set, whose annotations are not read.
        boxes: without crowds; None as above.
        without_boxes: images that have no such box; None as above.
        content: what its images and annotations are.
    """

    role: str
    name: str
    images: int
    sha256: str
    classes: tuple[str, ...] | None = None
    boxes: int | None = None
    without_boxes: int | None = None
    content: SetContent | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as ``run.json`` keeps them: a hash in place of the content."""
        known = asdict(replace(self, content=None))
        return {**known, "content": self.content and self.content.sha256}


def describe_sets(cfg: CfgNode, pools: Pools) -> list[DatasetRow]:
    """The sets of a training run, by role.

    Raises:
        ConfigError, SourceError: as :func:`describe_test_sets`, and for a test set without boxes.
    """
    rows = []
    trained: list[dict[str, Any]] = []
    starts = {"labeled": 0, "unlabeled": 0}
    records_of = {"labeled": pools.labeled, "unlabeled": pools.unlabeled}
    for role, name, images in pools.sets:
        start = starts[role]
        records = records_of[role][start : start + images]
        starts[role] += images
        rows.append(_describe(role, name, records, pools.classes))
        if role == "labeled" and pools.unlabeled:
            _warn_of_limits(cfg, name, records, role)
        if name in cfg.DATASETS.TRAIN:
            trained += records
    tests = _tests(cfg)
    for row, records in tests:
        if text := _trained_text(row.name, records, trained):
            logger.warning("%s", text)
        if not row.boxes:
            raise ConfigError(
                f"DATASETS.TEST {row.name}: none of its {row.images} images has a box"
                f"{why_no_boxes(load_one_labeled(row.name))}, so there is no AP to measure. Name "
                'a set with boxes, or set DATASETS.TEST "()" to train without evaluation.'
            )
    return [*rows, *(row for row, _ in tests)]


def describe_test_sets(cfg: CfgNode) -> list[DatasetRow]:
    """The sets of DATASETS.TEST.

    Raises:
        ConfigError: if one is named twice, or TEST.VOC_PROTOCOLS is set and none of them is in
            PASCAL VOC's layout.
        SourceError: if one cannot be read, or its classes are not those of DATASETS.TRAIN.
    """
    return [row for row, _ in _tests(cfg)]


def _tests(cfg: CfgNode) -> list[tuple[DatasetRow, list[dict[str, Any]]]]:
    """See :func:`describe_test_sets`; each with its records."""
    names = list(cfg.DATASETS.TEST)
    if len(set(names)) < len(names):
        raise ConfigError(
            f"DATASETS.TEST is {tuple(names)}; each set may be named once, since results go by name"
        )
    rows = []
    for name in names:
        classes = _test_classes(name, cfg.DATASETS.TRAIN)
        records = load_one_labeled(name)
        if not records:
            raise SourceError(f"DATASETS.TEST {name}: holds no image; name a set that has some")
        rows.append((_describe("test", name, records, classes), records))
        _warn_of_limits(cfg, name, records, "test")
    if cfg.TEST.VOC_PROTOCOLS and names and not any(map(is_voc, names)):
        raise ConfigError(
            f"TEST.VOC_PROTOCOLS is {tuple(cfg.TEST.VOC_PROTOCOLS)}, but none of DATASETS.TEST "
            f"({', '.join(names)}) is in PASCAL VOC's layout, which marks difficult objects. Test "
            'on voc://ROOT?split=test or a voc_* set, or set TEST.VOC_PROTOCOLS "()".'
        )
    return rows


def prepare_evaluation(cfg: CfgNode) -> list[DatasetRow]:
    """Check and log the sets that ``--eval-only`` evaluates on.

    A set without boxes is let through: its detections are written for a server to evaluate.

    Raises:
        ConfigError: if DATASETS.TEST is empty.
        ConfigError, SourceError: as :func:`describe_test_sets` and :func:`contents_of`.
    """
    if not cfg.DATASETS.TEST:
        raise ConfigError(
            "DATASETS.TEST is (): there is nothing to evaluate on. Name a set, such as "
            "DATASETS.TEST \"('coco://val.json?images=DIR',)\"."
        )
    tests = _tests(cfg)
    rows = [row for row, _ in tests]
    # The processes share the images of a set: each must have read the same.
    contents_of(rows)
    logger.info("Sets of this evaluation:\n%s", format_table(rows))
    if cfg.TEST.PSEUDO_LABEL_SET:
        logger.warning(
            "TEST.PSEUDO_LABEL_SET %r has no effect with --eval-only: a training measures its "
            "pseudo-labels there, at its evaluations (TEST.EVAL_PERIOD).",
            cfg.TEST.PSEUDO_LABEL_SET,
        )
    for row in rows:
        if not row.boxes:
            logger.warning("%s has no boxes: detections are written, there is no AP.", row.name)
    if comm.is_main_process():
        for text in seen_in_training(cfg, {row.name: records for row, records in tests}):
            logger.warning("%s", text)
    return rows


def seen_in_training(cfg: CfgNode, tests: Mapping[str, Sequence[dict[str, Any]]]) -> list[str]:
    """What to say, once a model is trained, of test images that DATASETS.TRAIN holds as well.

    The images of DATASETS.TRAIN are listed, without their labels; where they cannot be, that is
    said.

    Args:
        tests: the records of each test set, by its name.
    """
    try:
        trained = load_unlabeled(cfg.DATASETS.TRAIN, Remarks())
    except Exception as error:  # Of a user's own loader it may be any, and this is advice only.
        return [
            "It was not checked whether DATASETS.TRAIN holds images of DATASETS.TEST as well: its "
            f"images cannot be listed here: {type(error).__name__}: {error}"
        ]
    texts = (_trained_text(name, records, trained) for name, records in tests.items())
    return [text for text in texts if text]


def contents_of(rows: Sequence[DatasetRow]) -> dict[str, SetContent]:
    """What the sets of each role hold, the same on every process.

    Raises:
        SourceError: if the processes of the run have read different data.
    """
    known = [(row, row.content) for row in rows if row.content is not None]
    check_agreement(
        comm.all_gather({f"{row.role} {row.name}": content.sha256 for row, content in known})
    )
    return by_role([(row.role, content) for row, content in known])


def format_table(rows: Sequence[DatasetRow]) -> str:
    """The sets as a table, one row per set, for the log and for people."""
    lines = [
        (
            row.role,
            printable(row.name),
            row.images,
            "-" if row.boxes is None else row.boxes,
            "-" if row.boxes is None else f"{row.boxes / row.images:.2f}",
            "-" if row.classes is None else len(row.classes),
            "-" if row.without_boxes is None else f"{100 * row.without_boxes / row.images:.1f} %",
            row.sha256[:12],
        )
        for row in rows
    ]
    headers = (
        *("role", "set", "images", "boxes", "boxes per image", "classes"),
        *("images without boxes", "SHA-256 of ids"),
    )
    right = ("left", "left", *["right"] * 5, "left")
    return str(tabulate(lines, headers, tablefmt="pipe", colalign=right, disable_numparse=True))


def _test_classes(name: str, train: Sequence[str]) -> list[str]:
    trained = class_names(train)
    try:
        return class_names([train[0], name])
    except SourceError as error:
        hint = ""
        if name.startswith("voc://"):
            hint = f". For this set: &classes={','.join(quote(c, safe='') for c in trained)}"
        raise SourceError(f"DATASETS.TEST {name}: {error}{hint}") from error


def _describe(
    role: str, name: str, records: Sequence[dict[str, Any]], classes: Sequence[str]
) -> DatasetRow:
    if isinstance(records, ShardRecords):
        digest = hash_ids(records.digests())
    else:
        digest = hash_ids(str(record.get("image_id", record["file_name"])) for record in records)
    if role == "unlabeled":
        return DatasetRow(role, name, len(records), digest, content=SetContent.of(records))
    counts = [len(objects_of(record)) for record in records]
    return DatasetRow(
        *(role, name, len(records), digest, tuple(classes), sum(counts), counts.count(0)),
        content=SetContent.of(records, classes),
    )


def _trained_text(
    name: str, records: Sequence[dict[str, Any]], trained: Sequence[dict[str, Any]]
) -> str | None:
    """What to say of a test set whose images are in DATASETS.TRAIN as well; None if none is."""
    seen = len(records) - len(without_known(records, trained))
    if not seen:
        return None
    return (
        f"DATASETS.TEST {name}: {seen} of its {len(records)} images are in DATASETS.TRAIN as well, "
        "of which a training may use all, with or without their labels. What is measured on images "
        "that a model was trained on says little of new ones: test on images that DATASETS.TRAIN "
        "does not hold."
    )


_LOST = {
    "test": "no detector can find all of them",
    "labeled": "no teacher, which it bounds as well, can label all of those of an unlabeled image "
    "like them: the others are taught as background. Raise it to more than there are",
}


def _warn_of_limits(
    cfg: CfgNode, dataset_name: str, records: Sequence[dict[str, Any]], role: str
) -> None:
    """Say where ``TEST.DETECTIONS_PER_IMAGE`` loses objects, or makes the figures of tests special.

    Pseudo-labels are bound by it as well; labeled images show how many objects there may be.
    """
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    crowded = [record for record in records if len(objects_of(record)) > limit]
    if crowded:
        most = max(len(objects_of(record)) for record in crowded)
        logger.warning(
            "%s: %d images have more objects, up to %d, than the %d detections of "
            "TEST.DETECTIONS_PER_IMAGE, so %s; the first is %s",
            *(dataset_name, len(crowded), most, limit, _LOST[role], crowded[0]["file_name"]),
        )
    if role == "test" and limit > COCO_DETECTIONS:
        logger.warning(
            "TEST.DETECTIONS_PER_IMAGE is %d, and all of them count: the COCO-style AP is not that "
            "of COCO's protocol, which takes the best %d per image and class",
            limit,
            COCO_DETECTIONS,
        )
