from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import (
    UNLABELED_KEYS,
    class_names,
    ensure_registered,
    load_named,
    load_one_labeled,
    load_unlabeled,
    strip_labels,
)
from dre_ssod.errors import SourceError

Writer = Callable[..., Path]
BOXES = {1: [(7, (1, 2, 3, 4))], 2: [(3, (0, 0, 8, 6)), (7, (1, 1, 2, 2))]}
CLASSES = {3: "dog", 7: "cat"}


@pytest.fixture
def coco_uri(tmp_path: Path, write_coco: Writer) -> str:
    write_coco(tmp_path / "a.json", BOXES, CLASSES)
    (tmp_path / "images").mkdir()
    return f"coco://{tmp_path / 'a.json'}?images={tmp_path / 'images'}"


def test_a_uri_is_registered_once_under_its_own_text(coco_uri: str) -> None:
    assert coco_uri not in DatasetCatalog
    assert ensure_registered(coco_uri) == coco_uri
    metadata = MetadataCatalog.get(coco_uri)
    assert ensure_registered(coco_uri) == coco_uri
    assert MetadataCatalog.get(coco_uri) is metadata
    assert metadata.thing_classes == ["dog", "cat"]
    assert metadata.evaluator_type == "coco"
    assert DatasetCatalog.get(coco_uri) == load_one_labeled(coco_uri)


def test_classes_are_read_again_where_their_file_has_changed(
    tmp_path: Path, write_coco: Writer, coco_uri: str
) -> None:
    assert class_names([coco_uri]) == ["dog", "cat"]
    write_coco(tmp_path / "a.json", {1: [(7, (1, 2, 3, 4))]}, {3: "ant", 5: "dog", 7: "cat"})
    [record] = load_one_labeled(coco_uri)
    names = MetadataCatalog.get(coco_uri).thing_classes
    assert names[record["annotations"][0]["category_id"]] == "cat"
    assert class_names([coco_uri]) == ["ant", "dog", "cat"]


def test_a_relative_uri_follows_the_current_folder(
    tmp_path: Path, write_coco: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "coco://same.json?images=."
    for name in ("cat", "dog"):
        write_coco(tmp_path / name / "same.json", {1: []}, {1: name})
        monkeypatch.chdir(tmp_path / name)
        ensure_registered(uri)
        assert MetadataCatalog.get(uri).thing_classes == [name]
        assert MetadataCatalog.get(uri).image_root == str(tmp_path / name)


def test_coco_evaluator_scores_perfect_detections_of_a_uri_as_perfect(
    tmp_path: Path, coco_uri: str
) -> None:
    """Also Detectron2's own evaluator, and with ids from 0: it numbers the objects itself."""
    path = tmp_path / "a.json"
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        item["id"] -= 1
    path.write_text(json.dumps(content))
    name = ensure_registered(coco_uri)
    evaluator = COCOEvaluator(name, ("bbox",), output_dir=str(tmp_path), use_fast_impl=False)
    evaluator.reset()
    for record in load_one_labeled(coco_uri):
        found = Instances((record["height"], record["width"]))
        items = record["annotations"]
        corners = [
            BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS) for item in items
        ]
        found.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
        found.scores = torch.ones(len(items))
        found.pred_classes = torch.tensor([item["category_id"] for item in items])
        evaluator.process([record], [{"instances": found}])
    result = evaluator.evaluate()["bbox"]
    assert result["AP"] == pytest.approx(100)
    assert result["AP-cat"] == pytest.approx(100)


def test_paths_with_special_characters_are_percent_encoded(
    tmp_path: Path, write_voc: Writer
) -> None:
    root = write_voc(tmp_path / "50% & more?", {"a": [("x,y", (1, 1, 2, 2), 0)]})
    uri = f"voc://{quote(str(root))}?split=train&classes=x%2Cy,z"
    assert class_names([uri]) == ["x,y", "z"]
    assert len(load_one_labeled(uri)[0]["annotations"]) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "coco_2017_trian",
            r"'coco_2017_trian' is not .* close names: coco_2017_train.*voc://ROOT",
        ),
        ("zzz", r"'zzz' is not a dataset .* Detectron2\. Your own data go by URI: coco://"),
        ("folder://a?images=b", "unknown key 'images'; valid: none"),
        ("coco://a.json", "the key 'images' is missing"),
        ("coco://nowhere.json?images=a", r"no file 'nowhere\.json'; tried"),
        ("voc://nowhere?split=train", "no folder 'nowhere'; tried"),
        ("yolo://nowhere?split=train", "no file or folder 'nowhere'; tried"),
        ("yolo://nowhere", "no file or folder 'nowhere'; tried"),
        ("voc://nowhere?split=train&outside=allow", "unknown key 'outside'; valid: split, annotat"),
        ("sample://train", "unknown part 'train'; valid: labeled, unlabeled, val"),
        ("sample://val?seed=-1", "seed must be an integer from 0, is '-1'"),
    ],
)
def test_unusable_names_are_explained(name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        ensure_registered(name)


@pytest.mark.parametrize("classes", ["a,a", "a,,b", ","])
def test_classes_must_be_different_names(tmp_path: Path, classes: str) -> None:
    with pytest.raises(SourceError, match="classes= must be different names"):
        ensure_registered(f"voc://{tmp_path}?split=train&classes={classes}")


def test_labeled_sets_must_agree_in_their_classes(
    tmp_path: Path, coco_uri: str, write_voc: Writer
) -> None:
    root = write_voc(tmp_path / "voc", {"a": [("cat", (1, 1, 2, 2), 0)]})
    voc = f"voc://{root}?split=train"
    assert class_names([coco_uri, f"{voc}&classes=dog,cat"]) == ["dog", "cat"]
    names = [name for name, _ in load_named([coco_uri, f"{voc}&classes=dog,cat"])]
    assert names == ["0/1", "0/2", "1/a"]
    with pytest.raises(SourceError, match="only the first has 'dog'; only the second has none"):
        class_names([coco_uri, voc])
    with pytest.raises(SourceError, match="the order is 'dog', 'cat' against 'cat', 'dog'"):
        class_names([coco_uri, f"{voc}&classes=cat,dog"])


def test_classes_that_only_spelling_tells_apart_are_named(
    tmp_path: Path, write_coco: Writer
) -> None:
    names = ("Car", "caf\u00e9", "bus", "car ", "cafe\u0301")
    classes = dict(enumerate(names, start=1))
    boxes = [(number, (0, 0, number, 2)) for number in classes]
    write_coco(tmp_path / "a.json", {1: boxes}, classes)
    remarks = Remarks()
    load_one_labeled(f"coco://{tmp_path}/a.json?images={tmp_path}", remarks)
    told = ["'Car' and 'car '", "'caf\\xe9' and 'cafe\\u0301'"]
    assert remarks.items["alike-names"] == told


def test_sets_without_labels_are_no_labeled_sets(tmp_path: Path) -> None:
    uri = f"folder://{tmp_path}"
    with pytest.raises(SourceError, match=r"has no classes.* DATASETS\.UNLABELED"):
        class_names([uri])
    with pytest.raises(SourceError, match=r"has no labels; name it in DATASETS\.UNLABELED"):
        load_one_labeled(uri)
    with pytest.raises(SourceError, match=r"set DATASETS\.TRAIN"):
        class_names([])


def test_unlabeled_records_never_carry_labels(
    tmp_path: Path, coco_uri: str, write_voc: Writer, write_image: Writer
) -> None:
    root = write_voc(tmp_path / "voc", {"a": [("cat", (1, 1, 2, 2), 0)]})
    write_image(tmp_path / "more" / "1.png")
    name = f"test_{tmp_path}"
    DatasetCatalog.register(name, lambda: load_one_labeled(coco_uri))
    uris = [coco_uri, f"voc://{root}?split=train", f"folder://{tmp_path / 'more'}", name]
    records = load_unlabeled(uris)
    assert [record["image_id"] for record in records] == [1, 2, "a", "1.png", 1, 2]
    assert all(set(record) <= set(UNLABELED_KEYS) for record in records)


def test_stripping_makes_new_records() -> None:
    record = {"file_name": "a", "image_id": 1, "annotations": [], "difficult": 1, "sem_seg": "b"}
    assert strip_labels([record]) == [{"file_name": "a", "image_id": 1}]
    assert "annotations" in record


def test_a_registered_set_whose_files_are_missing_is_named(tmp_path: Path) -> None:
    name = f"test_missing_{tmp_path}"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(json_file=str(tmp_path / "a.json"), thing_classes=["a"])
    for load in (load_named, load_unlabeled):
        with pytest.raises(SourceError, match=r"a\.json is missing\. .*DETECTRON2_DATASETS"):
            load([name])


def test_the_sample_set_is_generated_under_the_datasets_root(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_coco: Writer,
    write_image: Writer,
) -> None:
    calls = []

    def generate(root: Path, seed: int) -> None:
        calls.append((root, seed))
        write_coco(root / "annotations" / "val.json", {1: []}, {1: "disc"})
        write_image(root / "val" / "1.png")
        write_image(root / "unlabeled" / "0.png")

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr("dre_ssod.data.sample.dataset.ensure_sample_set", generate)
    assert load_one_labeled("sample://val")[0]["file_name"] == str(
        tmp_path / "dre_ssod_sample" / "val" / "1.png"
    )
    assert len(load_unlabeled(["sample://unlabeled?seed=3"])) == 1
    roots = [tmp_path / "dre_ssod_sample", tmp_path / "dre_ssod_sample_seed3"]
    assert set(calls) == {(roots[0], 0), (roots[1], 3)}


def test_a_sample_set_that_cannot_be_written_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(root: Path, seed: int) -> None:
        raise PermissionError(f"read-only: {root}, seed {seed}")

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr("dre_ssod.data.sample.dataset.ensure_sample_set", refuse)
    with pytest.raises(SourceError, match=r"read-only: .* Set \$DETECTRON2_DATASETS"):
        ensure_registered("sample://labeled")


@pytest.mark.parametrize("absolute", [False, True])
def test_files_of_a_set_name_no_images_outside_its_folder(
    tmp_path: Path, write_coco: Writer, write_voc: Writer, write_image: Writer, absolute: bool
) -> None:
    secret = write_image(tmp_path / "secret.png")
    name = str(secret) if absolute else "../secret.png"
    entry = {"id": 1, "file_name": name, "height": 6, "width": 8}
    write_coco(tmp_path / "a.json", {1: []}, {1: "cat"}, replaced={"images": [entry]})
    write_voc(tmp_path / "voc", {"a": [("cat", (1, 1, 2, 2), 0)]})
    split = tmp_path / "voc" / "ImageSets" / "Main" / "train.txt"
    split.write_text(f"../{name.removesuffix('.png')}\n")
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "list.txt").write_text(f"{name}\n")
    (tmp_path / "yolo" / "data.yaml").write_text("train: list.txt\nnames: [cat]\n")
    (tmp_path / "images").mkdir()
    coco = f"coco://{tmp_path}/a.json?images={tmp_path}/images"
    yolo = f"yolo://{tmp_path}/yolo?split=train"
    for uri, message in [
        (coco, r"a\.json: image 1: '.*secret\.png' is outside .*images\..* outside=allow"),
        (yolo, r"list\.txt, line 1: '.*secret\.png' is outside .*yolo\..* outside=allow"),
        (f"voc://{tmp_path}/voc?split=train", r"no image for '\.\./.*secret'"),
    ]:
        for load in (load_named, load_unlabeled):
            with pytest.raises(SourceError, match=message):
                load([uri])
    for uri in (coco, yolo):
        assert load_unlabeled([f"{uri}&outside=allow"])[0]["file_name"] == str(secret)


def test_absolute_names_and_links_inside_the_folder_are_used(
    tmp_path: Path, write_coco: Writer, write_image: Writer
) -> None:
    elsewhere = write_image(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "linked").symlink_to(elsewhere.parent)
    names = ["linked/1.png", f"{tmp_path}/images/2.png", "./a/../3.png"]
    images = [
        {"id": number, "file_name": name, "height": 6, "width": 8}
        for number, name in enumerate(names)
    ]
    path = write_coco(tmp_path / "a.json", {1: []}, {1: "cat"})
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": images}))
    records = load_one_labeled(f"coco://{path}?images={tmp_path}/images")
    assert [record["file_name"] for record in records] == [
        str(tmp_path / "images" / name) for name in ("linked/1.png", "2.png", "3.png")
    ]
