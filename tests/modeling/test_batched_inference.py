"""What is found in an image does not depend on the images beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances

from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from tests.factories import BOXES, assert_same, draw, tiny_cfg, tiny_model

# Padded by a divisor of 32 to (64, 96), (64, 64), (64, 96), (96, 64), (64, 64) and (64, 96).
SIZES = [(64, 96), (40, 64), (56, 80), (96, 64), (64, 50), (33, 65)]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=[False, True], ids=["contiguous", "channels-last"])
def model(request: pytest.FixtureRequest) -> SemiSupervisedRCNN:
    cfg = tiny_cfg(**{"MODEL.CHANNELS_LAST": request.param})
    return tiny_model(cfg, spread=0.5).eval()


@pytest.fixture(params=["cpu", "gpu"])
def groups_are(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Images pass one by one, as on a CPU, or those of one size together, as on a GPU."""
    monkeypatch.setattr(SemiSupervisedRCNN, "_batches_images", request.param == "gpu")
    return str(request.param)


def pictures(sizes: list[tuple[int, int]] = SIZES) -> list[dict[str, Any]]:
    """Images whose detections are asked for in three times their size."""
    return [
        {"image": draw(size, BOXES, seed=n), "height": 3 * size[0], "width": 3 * size[1]}
        for n, size in enumerate(sizes)
    ]


def test_a_batch_gives_what_its_images_give_alone(
    model: SemiSupervisedRCNN, groups_are: str
) -> None:
    inputs = pictures()
    alone = [model([x])[0]["instances"] for x in inputs]
    assert min(map(len, alone)) > 10
    tolerance = 0.0 if groups_are == "cpu" else 1e-4
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 4, 2], [2, 0]):
        for found, i in zip(model([inputs[i] for i in order]), order, strict=True):
            assert_same(found["instances"], alone[i], rtol=tolerance, atol=tolerance)
    # Padded to one size, as Detectron2 does it, some are other boxes.
    padded = GeneralizedRCNN.inference(model, inputs, do_postprocess=False)
    raw = model.inference(inputs, do_postprocess=False)
    assert not all(
        len(a) == len(b) and torch.allclose(a.scores, b.scores, atol=1e-3)
        for a, b in zip(padded, raw, strict=True)
    )


def test_images_of_one_padded_size_share_a_pass(model: SemiSupervisedRCNN, groups_are: str) -> None:
    seen: list[tuple[int, ...]] = []
    handle = model.backbone.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    model(pictures())
    handle.remove()
    if groups_are == "cpu":
        assert [shape[0] for shape in seen] == [1] * 6
    else:
        assert seen == [(3, 3, 64, 96), (2, 3, 64, 64), (1, 3, 96, 64)]


def test_the_padded_size_is_that_of_the_model(model: SemiSupervisedRCNN) -> None:
    for picture in pictures([*SIZES, (1, 1), (32, 33), (65, 96)]):
        expected = model.preprocess_image([picture]).tensor.shape[-2:]
        assert model._padded_size(picture["image"]) == tuple(expected)


@pytest.mark.parametrize("square", [0, 128])
@pytest.mark.parametrize("unit", [0, 16])
def test_padding_constraints_of_a_backbone_count(
    model: SemiSupervisedRCNN, monkeypatch: pytest.MonkeyPatch, square: int, unit: int
) -> None:
    constraints = {"square_size": square, "size_divisibility": unit}
    monkeypatch.setattr(type(model.backbone), "padding_constraints", constraints)
    for picture in pictures():
        expected = model.preprocess_image([picture]).tensor.shape[-2:]
        assert model._padded_size(picture["image"]) == tuple(expected)


def test_given_boxes_stay_with_their_images(model: SemiSupervisedRCNN, groups_are: str) -> None:
    inputs = pictures()
    given = [
        Instances(size, pred_boxes=Boxes(torch.tensor([[1.0, 2.0, 9.0 + n, 12.0]])))
        for n, size in enumerate(SIZES)
    ]
    for instances in given:
        instances.pred_classes = torch.zeros(1, dtype=torch.int64)
    results = model.inference(inputs, detected_instances=given, do_postprocess=False)
    for n, result in enumerate(results):
        assert result.image_size == SIZES[n]
        assert result.pred_boxes.tensor.tolist() == [[1.0, 2.0, 9.0 + n, 12.0]]


def test_an_image_without_detections_among_others(
    model: SemiSupervisedRCNN, groups_are: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = pictures()
    best = [float(model([x])[0]["instances"].scores.max()) for x in inputs]
    threshold = sorted(best)[2]
    monkeypatch.setattr(model.roi_heads.box_predictor, "test_score_thresh", threshold)
    counts = [len(found["instances"]) for found in model(inputs)]
    assert [count > 0 for count in counts] == [score > threshold for score in best]
    assert 0 in counts
    assert max(counts) > 0


def test_no_image_gives_no_result(model: SemiSupervisedRCNN) -> None:
    assert model.inference([]) == []
