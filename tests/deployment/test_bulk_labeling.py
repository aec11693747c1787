"""Labeling in chunks: what is written; test_shared_labeling.py interrupts it."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from defusedxml.ElementTree import fromstring
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from dre_ssod.config.keys import get_cfg
from dre_ssod.data.images import read_image
from dre_ssod.data.records import identify_files
from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.deployment.labeling.bulk_labeling import image_line
from dre_ssod.deployment.labeling.corrected_labels import Changes, compare, join
from dre_ssod.deployment.labeling.label_manifest import Entry
from dre_ssod.deployment.labeling.label_merge import merge, real_paths
from dre_ssod.deployment.labeling.label_tasks import corrected_uri, write_tasks
from dre_ssod.deployment.labeling.labeling_job import LabelingJob, prepare
from dre_ssod.errors import ConfigError, SourceError
from dre_ssod.runs.resuming import settings_of
from tests.deployment.labeling_jobs import CATEGORIES, MIN_SCORE, job_in, result, run
from tests.factories import SIZE


def test_the_result_is_what_detectron2s_predictor_finds(
    finished: LabelingJob, cfg: CfgNode, images: Path
) -> None:
    content = result(finished)
    predictor = DefaultPredictor(cfg)
    assert content["categories"] == CATEGORIES
    assert [image["file_name"] for image in content["images"]] == [f"{n}.png" for n in range(7)]
    assert [item["id"] for item in content["annotations"]] == list(
        range(1, len(content["annotations"]) + 1)
    )
    total = 0
    for image in content["images"]:
        pixels = read_image(str(images / image["file_name"]), "BGR")
        assert pixels.shape[:2] == (image["height"], image["width"])
        found = predictor(pixels)["instances"]
        found = found[found.scores >= MIN_SCORE]
        entries = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        total += len(entries)
        assert len(entries) == len(found)
        boxes = np.array([a["bbox"] for a in entries]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, found.pred_boxes.tensor.numpy(), atol=0.01)
        for name, field in (("score", "scores"), ("quality", "localization_quality")):
            values = [a[name] for a in entries]
            np.testing.assert_allclose(values, found.get(field).numpy(), atol=1e-4)
        sigma = np.array([a["sigma"] for a in entries]).reshape(-1, 4)
        np.testing.assert_allclose(sigma, found.pred_boxes_sigma.numpy(), atol=0.01, rtol=0.01)
        classes = [a["category_id"] // 10 - 1 for a in entries]
        assert classes == found.pred_classes.tolist()
    assert total > 10


def test_a_broken_image_is_named_and_left_out(finished: LabelingJob) -> None:
    (skipped,) = map(json.loads, (finished.folder / "skipped.jsonl").read_text().splitlines())
    assert skipped["file_name"] == "3 broken.png"
    assert "3 broken.png" in skipped["error"]
    assert skipped["id"] not in [image["id"] for image in result(finished)["images"]]


def test_an_image_too_thin_does_not_end_the_job(cfg: CfgNode, images: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(images / "0.png", tmp_path / "photos")
    Image.new("RGB", (3000, 1)).save(tmp_path / "photos" / "thin.png")
    job = job_in(tmp_path / "job", tmp_path / "photos")
    assert b"thin.png: 3000 x 1 pixels are too long" in run(job, cfg)["skipped.jsonl"]
    assert [image["file_name"] for image in result(job)["images"]] == ["0.png"]


def test_the_images_to_label_next_are_the_most_uncertain(finished: LabelingJob) -> None:
    listed = json.loads((finished.folder / "label_next.json").read_text())
    assert listed["criterion"] == "both"
    values = [image["both"] for image in listed["images"]]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)
    lines = [
        json.loads(line)
        for path in sorted((finished.folder / "chunks").iterdir())
        for line in path.read_text().splitlines()
    ]
    best = max(line["uncertainty"]["both"] for line in lines if "error" not in line)
    assert values[0] == best


def test_images_of_excluded_sets_are_not_listed(
    finished: LabelingJob, images: Path, tmp_path: Path
) -> None:
    """By their real paths, whatever way leads to them."""
    before = (finished.folder / "label_next.txt").read_text().splitlines()
    listed = json.loads((finished.folder / "label_next.json").read_text())["images"]
    assert before == [str(images / image["file_name"]) for image in listed]
    (tmp_path / "labeled").mkdir()
    (tmp_path / "labeled" / "a.png").symlink_to(before[0])
    job = replace(finished, folder=shutil.copytree(finished.folder, tmp_path / "job"))
    merge(job, 3, "both", real_paths([f"folder://{tmp_path}/labeled"]))
    after = (job.folder / "label_next.txt").read_text().splitlines()
    assert after[:2] == before[1:]
    assert len({*after} | {*before}) == 4
    name = "pseudo_labels.json"
    assert (job.folder / name).read_bytes() == (finished.folder / name).read_bytes()
    with pytest.raises(SourceError, match="gone"):
        real_paths([f"folder://{tmp_path}/gone"])


def test_of_a_set_that_is_labeled_in_part_the_labeled_images_are_excluded(
    images: Path, tmp_path: Path
) -> None:
    """A labeling program's file does not label all images of its folder, nor do shards."""
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "1.xml").write_text(
        "<annotation><object><name>disk</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
        "<ymax>9</ymax></bndbox></object></annotation>"
    )
    labeled = identify_files()(str(images / "1.png"))
    assert real_paths([f"voc://{images}?annotations={tmp_path}/voc"]) == {labeled}
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": 8, "height": 6} for n in range(1, 3)
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": 1, "name": "disk"}],
    }
    (tmp_path / "half.json").write_text(json.dumps(content))
    half = f"coco://{tmp_path}/half.json?images={images}"
    assert real_paths([f"{half}&empty=unlabeled"]) == {labeled}
    assert len(real_paths([half])) == 2
    for number, kept in enumerate((("0.png", "1.png", "1.json"), ("0.png", "1.png"))):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as shard:
            for name in kept:
                shard.add(tmp_path / "voc" / "1.xml" if "json" in name else images / name, name)
    [labeled] = real_paths([f"shards://{tmp_path}/0.tar"])
    assert labeled.endswith("/1.png")
    # None is labeled: it is an unlabeled set.
    assert len(real_paths([f"shards://{tmp_path}/1.tar"])) == 2
    (tmp_path / "voc" / "1.xml").write_text("cut")
    with pytest.raises(SourceError, match=r"1\.xml"):
        real_paths([f"voc://{images}?annotations={tmp_path}/voc"])


def test_the_result_is_a_dataset(finished: LabelingJob, images: Path) -> None:
    records = load_one_labeled(f"coco://{finished.folder}/pseudo_labels.json?images={images}")
    count = sum(len(record["annotations"]) for record in records)
    assert count == len(result(finished)["annotations"])


def test_other_settings_or_other_files_are_refused(
    finished: LabelingJob,
    cfg: CfgNode,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="other settings: min_score, batch_images"):
        prepare(replace(finished, min_score=0.9, batch_images=2), cfg)
    other = cfg.clone()
    other.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.3
    with pytest.raises(ConfigError, match=r"other settings: MODEL\.ROI_HEADS\.NMS_THRESH_TEST"):
        prepare(finished, other)
    other = cfg.clone()
    other.DATALOADER.NUM_WORKERS = 2
    other.SOLVER.MAX_ITER = 7
    prepare(finished, other)
    # A key that a later version adds, at its default.
    defaults = get_cfg()
    defaults.MODEL.NEW_KEY = other.MODEL.NEW_KEY = 3
    job_module = "dre_ssod.deployment.labeling.labeling_job"
    monkeypatch.setattr(f"{job_module}.default_settings", lambda: settings_of(defaults))
    prepare(finished, other)
    other.MODEL.NEW_KEY = 4
    with pytest.raises(ConfigError, match=r"other settings: MODEL\.NEW_KEY"):
        prepare(finished, other)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no job"):
        prepare(job_in(tmp_path, images), cfg)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"manifest": 3}', '{"manifest": {}}'])
def test_damaged_settings_are_named(cfg: CfgNode, images: Path, tmp_path: Path, text: str) -> None:
    job = job_in(tmp_path / "job", images)
    prepare(job, cfg)
    path = job.folder / "settings.json"
    if text.startswith("{"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **json.loads(text)}))
    else:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"settings\.json is damaged: .* another --output"):
        prepare(job, cfg)


def test_workers_and_a_missing_chunk(
    finished: LabelingJob, cfg: CfgNode, images: Path, tmp_path: Path
) -> None:
    job = job_in(tmp_path / "job", images)
    prepare(job, cfg)
    with pytest.raises(FileNotFoundError):
        merge(job, 3, "both")
    assert not (job.folder / "pseudo_labels.json").exists()
    workers = cfg.clone()
    workers.DATALOADER.NUM_WORKERS = 2
    expected = (finished.folder / "pseudo_labels.json").read_bytes()
    assert run(job, workers)["pseudo_labels.json"] == expected


def test_how_images_are_batched_changes_no_label(
    finished: LabelingJob, cfg: CfgNode, images: Path, tmp_path: Path
) -> None:
    """Images of two sizes, and a broken one, in batches that mix them."""
    job = job_in(tmp_path / "job", images, batch_images=3)
    run(job, cfg)
    assert result(job)["annotations"] == result(finished)["annotations"]


def test_the_batch_size_of_evaluation_is_no_setting_of_the_job(
    finished: LabelingJob, cfg: CfgNode
) -> None:
    other = cfg.clone()
    other.TEST.IMS_PER_BATCH = 5
    assert finished.settings(other) == finished.settings(cfg)
    assert other.TEST.IMS_PER_BATCH == 5


def test_a_line_without_variance_has_neither_sigma_nor_quality(tmp_path: Path) -> None:
    found = Instances(
        SIZE,
        pred_boxes=Boxes(torch.tensor([[1.0, 2.0, 4.0, 6.0], [0.0, 0.0, 9.0, 9.0]])),
        scores=torch.tensor([0.75, 0.35]),
        pred_classes=torch.tensor([1, 0]),
    )
    line = image_line(Entry(5, "x.png"), found, job_in(tmp_path, tmp_path), 0.5)
    assert line["boxes"] == [
        {
            "category_id": 20,
            "bbox": [1.0, 2.0, 3.0, 4.0],
            "area": 12.0,
            "iscrowd": 0,
            "score": 0.75,
        }
    ]
    assert line["uncertainty"].keys() == {"entropy"}
    assert (line["width"], line["height"]) == (SIZE[1], SIZE[0])


def test_tasks_come_back_as_labels_and_say_what_was_right(
    cfg: CfgNode, images: Path, tmp_path: Path
) -> None:
    """The whole loop: the model's boxes as tasks, corrected by hand, joined with older labels."""
    job = job_in(tmp_path / "job", images, views=True)
    run(job, cfg)
    merge(job, 2, "views")
    listed = json.loads((job.folder / "label_next.json").read_text())
    assert listed["criterion"] == "views"
    doubts = [image["views"] for image in listed["images"]]
    assert len(doubts) == 2
    assert doubts == sorted(doubts, reverse=True)
    assert all(0 < doubt <= 1 for doubt in doubts)
    tasks = json.loads(write_tasks(job, "labelstudio").read_text())
    assert [task["data"]["uncertainty"] for task in tasks] == doubts
    assert [task["predictions"][0]["score"] for task in tasks] == [
        pytest.approx(1 - doubt) for doubt in doubts
    ]
    # A person removes the first box of the first image, moves the second, and adds one.
    corrected = []
    for task in tasks:
        results = task["predictions"][0]["result"]
        assert all(0.4 <= region["score"] <= 1 for region in results)
        corrected.append({"data": task["data"], "annotations": [{"result": results}]})
    first = corrected[0]["annotations"][0]["result"]
    boxes = sum(len(task["annotations"][0]["result"]) for task in corrected)
    del first[0]
    first[0]["value"]["width"] *= 0.8
    value = {**first[0]["value"], "x": 0, "y": 0, "width": 1, "height": 99}
    first.append({**first[0], "id": "new", "value": value})
    export = tmp_path / "export.json"
    export.write_text(json.dumps(corrected), encoding="utf-8")
    uri = f"labelstudio://{export}?images={images}"
    suggested = f"coco://{job.folder}/pseudo_labels.json?images={images}"
    changes = compare(suggested, [uri])
    assert changes == Changes(2, kept=boxes - 2, moved=1, removed=1, added=1)
    assert changes.precision == changes.recall == pytest.approx((boxes - 1) / boxes)
    # The second image came back as it was.
    joined = join([suggested], [uri], replace=True)
    assert (len(joined.records), joined.corrected) == (7, 1)
    assert [category["name"] for category in joined.categories] == [
        category["name"] for category in CATEGORIES
    ]
    xml = fromstring(write_tasks(job, "cvat").read_bytes())
    assert [image.get("name") for image in xml.findall("image")] == [
        image["file_name"] for image in listed["images"]
    ]
    assert {box.get("source") for box in xml.iter("box")} == {"auto"}
    _check_folders_of_tasks(job, images, suggested, [image["id"] for image in listed["images"]])


def _check_folders_of_tasks(
    job: LabelingJob, images: Path, suggested: str, ids: list[int | str]
) -> None:
    """Of two listed images: COCO, YOLO and VOC have the model's boxes, in the order of the list."""
    found = {record["image_id"]: record for record in load_one_labeled(suggested)}
    same = Changes(2, kept=sum(len(found[image]["annotations"]) for image in ids))
    uris = {"coco": f"coco://{write_tasks(job, 'coco')}?images={images}"}
    assert corrected_uri(job.folder, "coco") is None
    for form in ("yolo", "voc"):
        write_tasks(job, form)
        uris[form] = corrected_uri(job.folder, form) or ""
    for form, uri in uris.items():
        assert compare(suggested, [uri]) == same, form
        files = [os.path.realpath(record["file_name"]) for record in load_one_labeled(uri)]
        assert files == [os.path.realpath(found[image]["file_name"]) for image in ids], form
    scores = [[item["score"] for item in r["annotations"]] for r in load_one_labeled(uris["coco"])]
    assert scores == [[item["score"] for item in found[image]["annotations"]] for image in ids]
    # Somebody corrects labels where they are: the same list leaves them, another one comes beside.
    voc = write_tasks(job, "voc")
    corrected = next((voc / "Annotations").glob("*.xml"))
    corrected.write_text("<corrected/>")
    assert write_tasks(job, "voc") == voc
    merge(job, 1, "views")
    assert write_tasks(job, "voc") != voc
    assert corrected.read_text() == "<corrected/>"


def test_detections_are_a_list_of_results(finished: LabelingJob) -> None:
    with redirect_stdout(StringIO()):
        truth = COCO(str(finished.folder / "pseudo_labels.json"))
        found = truth.loadRes(str(finished.folder / "detections.json"))
    keys = ("image_id", "category_id", "bbox", "score")
    assert [[item[key] for key in keys] for item in found.dataset["annotations"]] == [
        [item[key] for key in keys] for item in result(finished)["annotations"]
    ]
