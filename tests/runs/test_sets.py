"""What a run says of its sets, and which sets it refuses, from the command line on."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

import train_net
from dre_ssod.engine.training_data import load_pools
from dre_ssod.errors import SourceError, UserError
from dre_ssod.runs import sets
from dre_ssod.runs.sets import (
    DatasetRow,
    describe_sets,
    format_table,
    prepare_evaluation,
    seen_in_training,
)
from tests.tiny_dataset import TinyDataset, tiny_run
from tests.voc_folder import VocObject, write_voc_folder

pytestmark = pytest.mark.usefixtures("kept_loggers")

OBJECTS: dict[str, list[VocObject]] = {
    "a": [("cat", (11, 11, 50, 50), False), ("dog", (60, 10, 90, 40), True)],
    "b": [],
}


def sha256(*ids: object) -> str:
    return hashlib.sha256("\n".join(sorted(map(str, ids))).encode()).hexdigest()


def tiny(data: TinyDataset, folder: Path, **overrides: object) -> CfgNode:
    cfg = tiny_run(data, folder, **overrides)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    return cfg


def changed_json(data: TinyDataset, path: Path, **replaced: Any) -> str:
    """The URI of the tiny set with other content."""
    content = json.loads((data.root / "train.json").read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **replaced}), encoding="utf-8")
    return f"coco://{path}?images={data.root}/train"


def test_the_table_holds_every_set_by_role(data: TinyDataset, tmp_path: Path) -> None:
    cfg = tiny(data, tmp_path)
    pools = load_pools(cfg)
    labeled, hidden, more, test = describe_sets(cfg, pools)
    classes = ("class0", "class1", "class2")
    ids = [record["image_id"] for record in pools.labeled]
    assert labeled == DatasetRow("labeled", data.labeled, 4, sha256(*ids), classes, 12, 0)
    rest = set(range(1, 9)) - set(ids)
    assert hidden == DatasetRow("unlabeled", data.labeled, 4, sha256(*rest))
    names = [f"u{number}.png" for number in range(4)]
    assert more == DatasetRow("unlabeled", data.unlabeled, 4, sha256(*names))
    assert test == DatasetRow("test", data.labeled, 8, sha256(*range(1, 9)), classes, 24, 0)


def test_several_sets_have_a_row_each(data: TinyDataset, tmp_path: Path) -> None:
    """Records are one list: the rows must cut it where the sets meet."""
    no_boxes = json.loads((data.root / "train.json").read_text(encoding="utf-8"))["annotations"][3:]
    other = changed_json(data, tmp_path / "other.json", annotations=no_boxes)
    cfg = tiny(data, tmp_path, **{"DATASETS.LABELED_PERCENT": 100.0})
    cfg.DATASETS.TRAIN = (other, data.labeled)
    cfg.DATASETS.TEST = (other,)
    first, second, _, test = describe_sets(cfg, load_pools(cfg))
    # The first image of the first set has no box: it is not trained on.
    assert (first.name, first.images, first.boxes, first.without_boxes) == (other, 7, 21, 0)
    assert first.sha256 == sha256(*range(2, 9))
    assert (second.name, second.images, second.boxes) == (data.labeled, 8, 24)
    assert (test.images, test.boxes, test.without_boxes) == (8, 21, 1)


def test_images_that_are_trained_and_tested_on_are_warned_of(
    data: TinyDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads((data.root / "train.json").read_text(encoding="utf-8"))
    halves = [
        changed_json(data, tmp_path / f"{n}.json", images=content["images"][4 * n : 4 * n + 4])
        for n in range(2)
    ]
    for test, seen in ((data.labeled, 4), (halves[0], 4), (halves[1], 0)):
        cfg = tiny(data, tmp_path, **{"DATASETS.LABELED_PERCENT": 50.0})
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (halves[0],), (test,)
        caplog.clear()
        with caplog.at_level("WARNING", logger="dre_ssod"):
            describe_sets(cfg, load_pools(cfg))
        # Those without their labels are trained on, too.
        assert (f"{seen} of its" in caplog.text) is (seen > 0)


def test_a_baseline_has_no_unlabeled_set(data: TinyDataset, tmp_path: Path) -> None:
    cfg = tiny(data, tmp_path, **{"SSOD.ENABLED": False})
    rows = describe_sets(cfg, load_pools(cfg))
    assert [row.role for row in rows] == ["labeled", "test"]


def test_the_printed_table() -> None:
    rows = [
        DatasetRow("labeled", "a", 4, "0123456789abcdef", ("x", "y"), 6, 1),
        DatasetRow("unlabeled", "b", 10, "fedcba9876543210"),
    ]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in format_table(rows).split("\n")
    ]
    assert lines[2] == ["labeled", "a", "4", "6", "1.50", "2", "25.0 %", "0123456789ab"]
    assert lines[3] == ["unlabeled", "b", "10", "-", "-", "-", "-", "fedcba987654"]


def refusal(data: TinyDataset, folder: Path, *words: str, **overrides: object) -> str:
    """The message with which ``train_net.py`` refuses a config, before any iteration."""
    cfg = tiny_run(data, folder / "out", **overrides)
    file = folder / "config.yaml"
    file.write_text(cfg.dump(), encoding="utf-8")
    arguments = default_argument_parser().parse_args(["--config-file", str(file), *words])
    with pytest.raises(UserError) as caught:
        train_net.main(arguments)
    assert not list((folder / "out").glob("*.pth"))
    return str(caught.value)


def test_a_set_without_any_labeled_box(data: TinyDataset, tmp_path: Path) -> None:
    uri = changed_json(data, tmp_path / "empty.json", annotations=[])
    message = refusal(data, tmp_path, **{"DATASETS.TRAIN": (uri,), "DATASETS.TEST": ()})
    assert re.search(r"none of the 4 labeled images of .*empty.json.* has a box; raise", message)


def test_no_unlabeled_image(data: TinyDataset, tmp_path: Path) -> None:
    overrides = {"DATASETS.UNLABELED": (), "DATASETS.LABELED_PERCENT": 100.0}
    message = refusal(data, tmp_path, **overrides)
    assert "no unlabeled images: DATASETS.UNLABELED is ()" in message
    assert "DATASETS.UNLABELED \"('folder://DIR',)\"" in message


def test_a_percentage_of_no_image(data: TinyDataset, tmp_path: Path) -> None:
    message = refusal(data, tmp_path, **{"DATASETS.LABELED_PERCENT": 1.0})
    assert "LABELED_PERCENT 1.0 of 8 images is less than one image; use at least 12.5" in message


def test_a_class_that_the_set_does_not_name(data: TinyDataset, tmp_path: Path) -> None:
    root = write_voc_folder(tmp_path / "voc", OBJECTS)
    uri = f"voc://{root}?split=test&classes=cat,horse"
    message = refusal(data, tmp_path, **{"DATASETS.TRAIN": (uri,), "DATASETS.TEST": ()})
    assert "unknown class 'dog'; valid: 'cat', 'horse'" in message


@pytest.mark.parametrize("key", ["TRAIN", "UNLABELED", "TEST"])
def test_a_missing_folder(data: TinyDataset, tmp_path: Path, key: str) -> None:
    uri = f"coco://{data.root}/train.json?images=gone/images"
    message = refusal(data, tmp_path, **{f"DATASETS.{key}": (uri,)})
    assert "gone/images" in message
    assert "DETECTRON2_DATASETS" in message


@pytest.mark.parametrize("eval_only", [False, True])
def test_a_test_set_of_other_classes(data: TinyDataset, tmp_path: Path, eval_only: bool) -> None:
    names = ("class0", "class2", "class1")
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    uri = changed_json(data, tmp_path / "other.json", categories=categories)
    words = ("--eval-only", "MODEL.WEIGHTS", str(data.root / "train.json")) if eval_only else ()
    message = refusal(data, tmp_path, *words, **{"DATASETS.TEST": (data.labeled, uri)})
    assert message.startswith(f"DATASETS.TEST {uri}: ")
    assert (
        "the order is 'class0', 'class1', 'class2' against 'class0', 'class2', 'class1'" in message
    )


def test_a_voc_test_set_of_other_classes_is_told_its_classes(
    data: TinyDataset, tmp_path: Path
) -> None:
    uri = f"voc://{write_voc_folder(tmp_path / 'voc', OBJECTS)}?split=test"
    message = refusal(data, tmp_path, **{"DATASETS.TEST": (uri,)})
    assert (
        "only the first has 'class0', 'class1', 'class2'; only the second has 'cat', 'dog'"
        in message
    )
    assert message.endswith("&classes=class0,class1,class2")


def test_a_test_set_without_boxes(data: TinyDataset, tmp_path: Path) -> None:
    uri = changed_json(data, tmp_path / "empty.json", annotations=[])
    message = refusal(data, tmp_path, **{"DATASETS.TEST": (uri,)})
    assert "none of its 8 images has a box, so there is no AP to measure" in message


def test_a_test_set_of_crowds_alone(data: TinyDataset, tmp_path: Path) -> None:
    content = json.loads((data.root / "train.json").read_text(encoding="utf-8"))
    crowds = [{**item, "iscrowd": 1} for item in content["annotations"]]
    uri = changed_json(data, tmp_path / "crowds.json", annotations=crowds)
    cfg = tiny(data, tmp_path)
    cfg.DATASETS.TEST = (uri,)
    with pytest.raises(UserError, match=r"has a box: 24 objects are crowd regions \(set 'iscrowd'"):
        describe_sets(cfg, load_pools(cfg))


@pytest.mark.parametrize(
    ("limit", "crowded", "special"), [(2, True, False), (100, False, False), (300, False, True)]
)
def test_what_a_limit_of_detections_does_to_the_figures_is_said(
    data: TinyDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    limit: int,
    crowded: bool,
    special: bool,
) -> None:
    """Each of the 8 images, of which 4 are labeled, has 3 objects."""
    cfg = tiny(data, tmp_path)
    cfg.TEST.DETECTIONS_PER_IMAGE = limit
    pools = load_pools(cfg)
    logging.getLogger("dre_ssod").propagate = True
    with caplog.at_level(logging.WARNING):
        describe_sets(cfg, pools)
    first = (
        "8 images have more objects, up to 3, than the 2 detections of TEST.DETECTIONS_PER_IMAGE"
    )
    assert (first in caplog.text) == crowded
    cut = "4 images have more objects, up to 3, than the 2 detections of TEST.DETECTIONS_PER_IMAGE"
    assert (f"{cut}, so no teacher, which it bounds as well, can label all" in caplog.text) == (
        crowded
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        describe_sets(cfg, pools.without_unlabeled())
    assert "teacher" not in caplog.text
    assert ("is not that of COCO's protocol, which takes the best 100" in caplog.text) == special


def test_a_test_set_that_is_named_twice(data: TinyDataset, tmp_path: Path) -> None:
    message = refusal(data, tmp_path, **{"DATASETS.TEST": (data.labeled, data.labeled)})
    assert "each set may be named once" in message


def test_voc_protocols_without_a_voc_set(data: TinyDataset, tmp_path: Path) -> None:
    message = refusal(data, tmp_path, **{"TEST.VOC_PROTOCOLS": ("voc07_bbox",)})
    assert message.startswith("TEST.VOC_PROTOCOLS is ('voc07_bbox',), but none of DATASETS.TEST (")
    assert 'set TEST.VOC_PROTOCOLS "()"' in message


@pytest.mark.parametrize("names", [("voc2007",), ("voc07_bbox", "voc07_bbox"), ("bbox",)])
def test_protocols_are_checked(data: TinyDataset, tmp_path: Path, names: tuple[str]) -> None:
    message = refusal(data, tmp_path, **{"TEST.VOC_PROTOCOLS": names})
    assert message.startswith(f"TEST.VOC_PROTOCOLS is {names}; it must be different names out of")


def test_evaluation_needs_a_set(data: TinyDataset, tmp_path: Path) -> None:
    words = ("--eval-only", "MODEL.WEIGHTS", str(data.root / "train.json"))
    message = refusal(data, tmp_path, *words, **{"DATASETS.TEST": ()})
    assert message.startswith("DATASETS.TEST is (): there is nothing to evaluate on")


def test_an_evaluation_says_what_it_leaves_out(
    data: TinyDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_evaluation(tiny(data, tmp_path, **{"TEST.PSEUDO_LABEL_SET": data.labeled}))
    assert f"TEST.PSEUDO_LABEL_SET {data.labeled!r} has no effect with --eval-only" in caplog.text


def test_an_evaluation_warns_of_images_that_were_trained_on(
    data: TinyDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = json.loads((data.root / "train.json").read_text(encoding="utf-8"))
    part = changed_json(data, tmp_path / "part.json", images=content["images"][:2])
    others = changed_json(data, tmp_path / "others.json", images=content["images"][2:])
    cfg = tiny(data, tmp_path)
    for train, seen in ((part, "2 of its 8 images"), (others, "6 of its 8 images")):
        cfg.DATASETS.TRAIN = (train,)
        caplog.clear()
        prepare_evaluation(cfg)
        assert f"{data.labeled}: {seen} are in DATASETS.TRAIN as well" in caplog.text
    cfg.DATASETS.TEST = (part,)
    caplog.clear()
    prepare_evaluation(cfg)
    assert "DATASETS.TRAIN" not in caplog.text
    # One process is enough to look.
    cfg.DATASETS.TRAIN = (part,)
    monkeypatch.setattr(sets.comm, "is_main_process", lambda: False)
    prepare_evaluation(cfg)
    assert "DATASETS.TRAIN" not in caplog.text


def test_an_evaluation_needs_no_image_that_was_trained_on(
    data: TinyDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = write_voc_folder(tmp_path / "train", OBJECTS)
    test = write_voc_folder(tmp_path / "test", OBJECTS)
    cfg = tiny(data, tmp_path)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (
        (f"voc://{train}?split=test",),
        (f"voc://{test}?split=test",),
    )
    prepare_evaluation(cfg)
    assert "DATASETS.TRAIN" not in caplog.text
    (train / "JPEGImages" / "a.jpg").unlink()
    (row,) = prepare_evaluation(cfg)
    assert row.images == 2
    (said,) = [r.getMessage() for r in caplog.records if "DATASETS.TRAIN" in r.getMessage()]
    assert said.startswith(
        "It was not checked whether DATASETS.TRAIN holds images of DATASETS.TEST"
    )
    assert "no image for 'a'" in said


def test_what_a_loader_of_the_user_raises_does_not_end_an_evaluation(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any) -> list[dict[str, Any]]:
        raise KeyError("annotations")

    monkeypatch.setattr("dre_ssod.runs.sets.load_unlabeled", load)
    (said,) = seen_in_training(tiny(data, tmp_path), {})
    assert said.endswith("cannot be listed here: KeyError: 'annotations'")


def test_processes_of_an_evaluation_must_have_read_the_same(
    data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the images of a set by their numbers."""
    cfg = tiny(data, tmp_path)
    prepare_evaluation(cfg)
    other = {f"test {data.labeled}": "another digest"}
    monkeypatch.setattr(sets.comm, "all_gather", lambda own: [own, {**own, **other}])
    with pytest.raises(SourceError, match=f"^process 1 reads.*: test {re.escape(data.labeled)}"):
        prepare_evaluation(cfg)
