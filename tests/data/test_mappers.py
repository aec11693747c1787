"""Mappers: images as Detectron2 reads them, boxes by the view's matrix, no label leaks."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.structures import BoxMode
from PIL import Image as PillowImage

from dre_ssod.config.keys import get_cfg
from dre_ssod.data import mappers
from dre_ssod.data.images import ImageError, read_image
from dre_ssod.data.mappers import (
    EvaluationMapper,
    LabeledMapper,
    UnlabeledMapper,
    instances_in_view,
)
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.structures import UnlabeledSample, View

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (40, 120)
    return cfg


@pytest.fixture
def png(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    PillowImage.fromarray(pixels).save(path)
    return str(path)


def annotation(bbox: list[float], category_id: int = 0, **more: Any) -> dict[str, Any]:
    return {"bbox": bbox, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category_id, **more}


def labeled(file_name: str, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    size = {"height": HEIGHT, "width": WIDTH, "image_id": 7}
    return {"file_name": file_name, "annotations": list(annotations), **size, **more}


def view_of(matrix: list[list[float]], height: int = 100, width: int = 200) -> View:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    return View(image, torch.tensor(matrix, dtype=torch.float64))


IDENTITY = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_boxes_are_mapped_in_any_box_mode_and_keep_their_classes() -> None:
    # x -> 200 - 2x, y -> 2y
    view = view_of([[-2.0, 0, 200], [0, 2, 0], [0, 0, 1]])
    instances = instances_in_view(
        [
            annotation([10, 5, 30, 25], 3),
            {"bbox": [10, 5, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1},
        ],
        view,
    )
    assert instances.image_size == (100, 200)
    assert instances.gt_boxes.tensor.tolist() == [[140, 10, 180, 50]] * 2
    assert instances.gt_boxes.tensor.dtype == torch.float32
    assert instances.gt_classes.tolist() == [3, 1]
    assert instances.gt_classes.dtype == torch.int64


def test_boxes_are_clipped_and_those_outside_are_dropped() -> None:
    instances = instances_in_view(
        [
            annotation([-5, -5, 20, 20], 0),
            annotation([190, 90, 300, 300], 1),
            annotation([210, 10, 250, 20], 2),
            annotation([200, 10, 250, 20], 3),
            annotation([10, -20, 20, -1], 4),
        ],
        view_of(IDENTITY),
    )
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 20, 20], [190, 90, 200, 100]]
    assert instances.gt_classes.tolist() == [0, 1]


def test_crowd_regions_are_dropped() -> None:
    regions = [annotation([1, 1, 9, 9], 0, iscrowd=1), annotation([1, 1, 9, 9], 1, iscrowd=0)]
    assert instances_in_view(regions, view_of(IDENTITY)).gt_classes.tolist() == [1]


def test_image_without_objects_has_empty_instances() -> None:
    for regions in ([], [annotation([1, 1, 9, 9], iscrowd=1)]):
        instances = instances_in_view(regions, view_of(IDENTITY))
        assert len(instances) == 0
        assert instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_classes.dtype == torch.int64


def test_without_randomness_the_labeled_mapper_is_detectron2s(cfg: CfgNode, png: str) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN = (36,)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.SSOD.LABELED_VIEW.PHOTOMETRIC = False
    boxes = [[3.0, 4.0, 20.0, 30.0], [-9.0, 4.0, 90.0, 47.0], [5.0, 5.0, 5.0, 9.0]]
    sample = labeled(png, *(annotation(box, category) for category, box in enumerate(boxes)))
    theirs = DatasetMapper(cfg, is_train=True)(copy.deepcopy(sample))
    ours = LabeledMapper.from_config(cfg)(sample, np.random.default_rng(0))
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    assert ours["instances"].image_size == theirs["instances"].image_size
    torch.testing.assert_close(
        ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor
    )
    assert torch.equal(ours["instances"].gt_classes, theirs["instances"].gt_classes)


@pytest.mark.parametrize("short_side", [36, 0])
def test_the_evaluation_mapper_is_detectron2s(cfg: CfgNode, png: str, short_side: int) -> None:
    cfg.INPUT.MIN_SIZE_TEST = short_side
    sample = labeled(png, annotation([3, 4, 20, 30]), extra="kept")
    theirs = DatasetMapper(cfg, is_train=False)(copy.deepcopy(sample))
    ours = EvaluationMapper.from_config(cfg)(sample)
    assert torch.equal(ours.pop("image"), theirs.pop("image"))
    assert ours == theirs
    with pytest.raises(ImageError, match=r"image\.png.* says 65 x 48"):
        EvaluationMapper.from_config(cfg)(labeled(png, width=WIDTH + 1))


def test_evaluation_sees_16_bits_as_training_does(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.INPUT.MIN_SIZE_TEST = 0
    path = str(tmp_path / "deep.png")
    PillowImage.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path)
    assert (EvaluationMapper.from_config(cfg)({"file_name": path})["image"] == 40_000 >> 8).all()


def test_labeled_sample_keeps_the_original_size_and_leaves_the_dict(cfg: CfgNode, png: str) -> None:
    sample = labeled(png, annotation([3, 4, 20, 30], 2), extra="kept")
    before = copy.deepcopy(sample)
    result = LabeledMapper.from_config(cfg)(sample, np.random.default_rng(0))
    assert sample == before
    assert "annotations" not in result
    assert (result["height"], result["width"], result["image_id"]) == (HEIGHT, WIDTH, 7)
    assert (result["file_name"], result["extra"]) == (png, "kept")
    assert tuple(result["image"].shape[1:]) == result["instances"].image_size


def test_labeled_boxes_follow_a_painted_object(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.SSOD.LABELED_VIEW.PHOTOMETRIC = False
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[10:30, 12:40] = 255
    path = tmp_path / "object.png"
    PillowImage.fromarray(pixels).save(path)
    mapper = LabeledMapper.from_config(cfg)
    for seed in range(20):
        result = mapper(
            labeled(str(path), annotation([12, 10, 40, 30])), np.random.default_rng(seed)
        )
        bright = result["image"][0] > 127
        rows, columns = bright.any(1).nonzero().ravel(), bright.any(0).nonzero().ravel()
        painted = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        box = result["instances"].gt_boxes.tensor[0].tolist()
        assert box == pytest.approx([float(side) for side in painted], abs=1.0)


def test_labeled_image_without_annotations_entry_is_refused(cfg: CfgNode, png: str) -> None:
    with pytest.raises(ValueError, match=r"image\.png.*no 'annotations'"):
        LabeledMapper.from_config(cfg)({"file_name": png}, np.random.default_rng(0))


def test_wrong_size_in_the_dict_is_refused(cfg: CfgNode, png: str) -> None:
    with pytest.raises(ImageError, match=r"image\.png.*64 x 48.* says 65 x 48"):
        LabeledMapper.from_config(cfg)(labeled(png, width=WIDTH + 1), np.random.default_rng(0))


def test_missing_size_is_filled_in(cfg: CfgNode, png: str) -> None:
    sample = {"file_name": png, "annotations": []}
    result = LabeledMapper.from_config(cfg)(sample, np.random.default_rng(0))
    assert (result["height"], result["width"]) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("annotations", [[], [annotation([3, 4, 20, 30])]])
def test_unlabeled_mapper_refuses_labels(
    cfg: CfgNode, png: str, annotations: list[dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match=r"image\.png.*carries 'annotations'"):
        UnlabeledMapper.from_config(cfg)(labeled(png, *annotations), np.random.default_rng(0))


def test_unlabeled_sample_holds_two_views_of_one_decoding(
    cfg: CfgNode, png: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def counted(file_name: str, image_format: str) -> np.ndarray:
        decoded.append(file_name)
        return read_image(file_name, image_format)

    monkeypatch.setattr(mappers, "read_image", counted)
    sample = UnlabeledMapper.from_config(cfg)({"file_name": png}, np.random.default_rng(0))
    assert isinstance(sample, UnlabeledSample)
    assert decoded == [png]
    assert sample.file_name == png


def test_sample_is_a_function_of_the_seed(cfg: CfgNode, png: str) -> None:
    mapper = UnlabeledMapper.from_config(cfg)

    def sample(*seed: int) -> UnlabeledSample:
        return mapper({"file_name": png}, np.random.default_rng(seed))

    first, again, other = sample(1, 2, 3), sample(1, 2, 3), sample(1, 2, 4)
    for name in ("weak", "strong"):
        assert torch.equal(getattr(first, name).image, getattr(again, name).image)
        assert torch.equal(getattr(first, name).matrix, getattr(again, name).matrix)
    assert not torch.equal(first.strong.matrix, other.strong.matrix)


def test_views_draw_independently(cfg: CfgNode, png: str) -> None:
    mapper = UnlabeledMapper.from_config(cfg)
    samples = [mapper({"file_name": png}, np.random.default_rng([0, seed])) for seed in range(200)]
    weak = [sample.weak.size[0] for sample in samples]
    strong = [sample.strong.size[0] for sample in samples]
    assert abs(float(np.corrcoef(weak, strong)[0, 1])) < 0.25

    # Another weak recipe leaves the strong view as it was.
    changed = UnlabeledMapper(replace(mapper.weak, photometric=True), mapper.strong)
    for seed in range(5):
        sample = changed({"file_name": png}, np.random.default_rng([0, seed]))
        assert torch.equal(sample.strong.image, samples[seed].strong.image)


def test_global_random_state_plays_no_part(cfg: CfgNode, png: str) -> None:
    mapper = UnlabeledMapper.from_config(cfg)
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    first = mapper({"file_name": png}, np.random.default_rng(5))
    assert np.array_equal(state, np.random.get_state()[1])
    np.random.seed(2)
    second = mapper({"file_name": png}, np.random.default_rng(5))
    assert torch.equal(first.strong.image, second.strong.image)


def test_two_channel_orders_in_one_sample_are_refused(cfg: CfgNode) -> None:
    weak = ViewRecipe.weak(cfg)
    with pytest.raises(ValueError, match="same channel order"):
        UnlabeledMapper(weak, replace(weak, image_format="RGB"))


def test_an_image_too_thin_to_resize_is_refused_by_both_mappers(
    cfg: CfgNode, tmp_path: Path
) -> None:
    path = str(tmp_path / "thin.png")
    # 1333 / 3000 is less than half a pixel.
    PillowImage.new("RGB", (3000, 1)).save(path)
    with pytest.raises(ImageError, match=r"thin\.png: 3000 x 1 pixels are too long"):
        UnlabeledMapper.from_config(cfg)({"file_name": path}, np.random.default_rng(0))
    with pytest.raises(ImageError, match=r"thin\.png"):
        LabeledMapper.from_config(cfg)(
            {"file_name": path, "annotations": []}, np.random.default_rng(0)
        )


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000)])
def test_the_smallest_and_thinnest_images_give_views_of_at_least_a_pixel(
    cfg: CfgNode, tmp_path: Path, size: tuple[int, int]
) -> None:
    path = str(tmp_path / "small.png")
    PillowImage.new("RGB", size, (9, 9, 9)).save(path)
    sample = UnlabeledMapper.from_config(cfg)({"file_name": path}, np.random.default_rng(0))
    assert min(*sample.weak.size, *sample.strong.size) >= 1
