"""The whole detector: equal to Detectron2's where it should be, whole in every corner case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from dre_ssod.methods import build_method
from dre_ssod.modeling.backbones import timm_backbone as backbone
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN, uses_channels_last
from dre_ssod.modeling.student_batch import StudentBatch
from dre_ssod.structures import StudentLosses
from dre_ssod.teacher import Labels
from tests.factories import (
    BOXES,
    SIZE,
    assert_same,
    beta_4,
    draw,
    labeled_image,
    pseudo_labels,
    tiny_cfg,
    tiny_model,
)
from tests.modeling.regions import Scores

LOSS_TYPE = "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"
# What Detectron2 knows: no variance branch, its own box coding.
PLAIN = {LOSS_TYPE: "smooth_l1", "MODEL.ROI_BOX_HEAD.BOX_TRANSFORM": "center_size"}
NO_WEIGHTS = {"SSOD.LER.ENABLED": False, "SSOD.PRC.ENABLED": False}
# Every anchor and every proposal counts. A choice among them by score or by place in the order of
# scores can turn out otherwise where the last bit of one score does.
NO_CHOICE = {
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 4096,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 4096,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 4096,
    "MODEL.RPN.NMS_THRESH": 1.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 4096,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
}
OTHER_BOXES = ((30.0, 4.0, 60.0, 30.0), (10.0, 30.0, 34.0, 54.0))


def _pair() -> tuple[SemiSupervisedRCNN, GeneralizedRCNN]:
    """Our detector without variance and Detectron2's own, with the same weights."""
    cfg = tiny_cfg(**PLAIN)
    ours = tiny_model(cfg, spread=0.5)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    theirs = build_model(cfg)
    assert type(theirs) is GeneralizedRCNN
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def _images() -> list[dict[str, Any]]:
    """Two images of different sizes, the second one without boxes."""
    return [labeled_image(0), labeled_image(1, boxes=(), size=(56, 80))]


def _ones(boxes: list[Boxes]) -> Scores:
    count = sum(map(len, boxes))
    return Scores(torch.full((count,), 0.5), torch.full((count,), 0.5), torch.ones(count))


class Given:
    """A label set that needs no carrying."""

    def __init__(self, labels: list[Instances]) -> None:
        self.labels = labels

    def instances(self) -> list[Instances]:
        return self.labels


def _batch(
    labeled_boxes: Any = BOXES, pseudo_boxes: Any = OTHER_BOXES, **overrides: Any
) -> StudentBatch:
    labels = Given([pseudo_labels(pseudo_boxes), pseudo_labels(())])
    return StudentBatch(
        labeled=[labeled_image(0, boxes=labeled_boxes)],
        strong=[{"image": draw(SIZE, pseudo_boxes, seed=seed)} for seed in (1, 2)],
        labels=Labels.single(labels, _ones),
        method=build_method(tiny_cfg(**overrides)),
    )


def _terms(losses: StudentLosses) -> list[Tensor]:
    return [*losses.supervised.values(), *losses.unsupervised.values()]


def _backward(model: nn.Module, images: list[dict[str, Any]]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    losses: dict[str, Tensor] = model(images)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def test_supervised_training_is_detectron2s() -> None:
    ours, theirs = _pair()
    losses, expected = _backward(ours, _images()), _backward(theirs, _images())
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert value.item() > 0
        torch.testing.assert_close(losses[name], value)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad)


def test_detection_is_detectron2s() -> None:
    ours, theirs = (model.eval() for model in _pair())
    images = [{**image, "height": 128, "width": 150} for image in _images()]
    with torch.no_grad():
        for mine, other in zip(ours(images), theirs(images), strict=True):
            assert mine.keys() == other.keys() == {"instances"}
            assert mine["instances"].image_size == (128, 150)
            assert len(mine["instances"]) > 10
            assert_same(mine["instances"], other["instances"])


def test_the_variance_branch_does_not_change_what_is_detected() -> None:
    gaussian = tiny_model(tiny_cfg(), spread=0.5).eval()
    plain = tiny_model(tiny_cfg(**{LOSS_TYPE: "smooth_l1"})).eval()
    weights = {k: v for k, v in gaussian.state_dict().items() if "log_variance" not in k}
    plain.load_state_dict(weights)
    with torch.no_grad():
        for mine, other in zip(gaussian(_images()), plain(_images()), strict=True):
            for added in ("pred_boxes_sigma", "localization_quality"):
                mine["instances"].remove(added)
            assert_same(mine["instances"], other["instances"])


def test_pseudo_labels_are_asked_for_once_a_gpu_has_the_features_to_compute() -> None:
    model, batch = tiny_model(tiny_cfg()), _batch()
    order = []

    class Noted(Given):
        def instances(self) -> list[Instances]:
            order.append("pseudo-labels")
            return super().instances()

    noted = Labels.single(Noted(batch.labels.cls.instances()), _ones)
    model.backbone.register_forward_hook(lambda *_: order.append("features"))
    model(replace(batch, labels=noted))
    assert order == ["features", "pseudo-labels"]


@torch.no_grad()
def test_sigma_is_in_pixels_of_the_image_that_boxes_are_in() -> None:
    model = tiny_model(tiny_cfg(), spread=0.5).eval()
    image = labeled_image(0)
    (raw,) = model.inference([image], do_postprocess=False)
    # Detections are asked for an image of twice the height and three times the width.
    (scaled,) = model([{**image, "height": 2 * SIZE[0], "width": 3 * SIZE[1]}])
    factor = torch.tensor([3.0, 2.0, 3.0, 2.0])
    detections = scaled["instances"]
    assert len(detections) == len(raw) > 10
    torch.testing.assert_close(detections.pred_boxes.tensor, raw.pred_boxes.tensor * factor)
    torch.testing.assert_close(detections.pred_boxes_sigma, raw.pred_boxes_sigma * factor)
    torch.testing.assert_close(detections.localization_quality, raw.localization_quality)


@torch.no_grad()
def test_without_a_wanted_size_detections_are_in_the_frame_of_the_input() -> None:
    model = tiny_model(tiny_cfg(), spread=0.5).eval()
    image = labeled_image(0)["image"]
    (raw,) = model.inference([{"image": image}], do_postprocess=False)
    (result,) = model([{"image": image}])
    assert result["instances"].image_size == SIZE
    torch.testing.assert_close(result["instances"].pred_boxes_sigma, raw.pred_boxes_sigma)


def test_the_first_model_of_a_process_has_the_weights_of_its_seed_too() -> None:
    """What is looked up once for a kind of backbone must not cost random numbers."""
    backbone._feature_levels.cache_clear()
    first, second = (tiny_model(tiny_cfg(), seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], value) for name, value in second.items())


def test_names_of_the_losses() -> None:
    losses = tiny_model(tiny_cfg())(_batch())
    names = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    assert losses.supervised.keys() == names
    assert losses.unsupervised.keys() == {f"{name}_unsup" for name in names}


def test_called_with_dicts_it_returns_the_supervised_losses() -> None:
    model = tiny_model(tiny_cfg())
    torch.manual_seed(0)
    losses = model([labeled_image(0)])
    torch.manual_seed(0)
    assert losses == model(StudentBatch(labeled=[labeled_image(0)])).supervised


def test_one_pass_through_the_backbone_sees_all_images() -> None:
    model = tiny_model(tiny_cfg())
    sizes: list[int] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    model(_batch())
    assert sizes == [3]


def test_each_image_feeds_the_losses_of_its_own_group() -> None:
    model = tiny_model(tiny_cfg(), spread=0.5)
    batch = _batch()
    other = {"image": draw(SIZE, BOXES, seed=9)}
    losses = []
    for labeled, strong in (
        (batch.labeled, batch.strong),
        (batch.labeled, [other, batch.strong[1]]),
        ([{**batch.labeled[0], **other}], batch.strong),
    ):
        torch.manual_seed(0)
        losses.append(model(replace(batch, labeled=labeled, strong=strong)))
    before, after_strong, after_labeled = losses
    for name, value in before.supervised.items():
        torch.testing.assert_close(after_strong.supervised[name], value)
        assert not torch.allclose(after_labeled.supervised[name], value)
    for name, value in before.unsupervised.items():
        assert not torch.allclose(after_strong.unsupervised[name], value)
    for name in ("loss_rpn_cls_unsup", "loss_rpn_loc_unsup"):
        torch.testing.assert_close(after_labeled.unsupervised[name], before.unsupervised[name])


@pytest.mark.parametrize("labeled_boxes", [BOXES, ()], ids=["labels", "no-labels"])
@pytest.mark.parametrize("pseudo_boxes", [OTHER_BOXES, ()], ids=["pseudo", "dead-teacher"])
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {LOSS_TYPE: "smooth_l1", **NO_WEIGHTS},
        {"SSOD.UNSUP_RPN_OBJECTNESS": False, "SSOD.UNSUP_RPN_BOX": False},
        {"SSOD.BOX_LOSS_NORMALIZER": "foreground", "SSOD.UNSUP_CLS_NORMALIZER": "sampled"},
    ],
    ids=["default", "mean-teacher", "no-rpn", "other-normalizers"],
)
def test_every_parameter_gets_a_gradient_whatever_the_images_hold(
    overrides: dict[str, Any], pseudo_boxes: Any, labeled_boxes: Any
) -> None:
    model = tiny_model(tiny_cfg(**overrides))
    losses = model(_batch(labeled_boxes, pseudo_boxes, **overrides))
    assert all(torch.isfinite(term) for term in _terms(losses))
    losses.total(beta_4).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_every_parameter_gets_a_gradient_from_labels_alone() -> None:
    model = tiny_model(tiny_cfg())
    model(StudentBatch(labeled=_images())).total(beta_4).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_unlabeled_images_do_not_reach_the_variance_branch() -> None:
    model = tiny_model(tiny_cfg(), spread=0.5)
    torch.stack(list(model(_batch()).unsupervised.values())).sum().backward()
    branch = model.roi_heads.box_predictor.log_variance
    assert all(p.grad is None or not p.grad.any() for p in branch.parameters())
    assert model.roi_heads.box_predictor.bbox_pred.weight.grad.any()


def test_losses_are_float32_under_autocast() -> None:
    model = tiny_model(tiny_cfg(), spread=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(_batch())
    assert {term.dtype for term in _terms(losses)} == {torch.float32}
    assert all(torch.isfinite(term) for term in _terms(losses))
    losses.total(beta_4).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_detections_are_float32_under_autocast() -> None:
    model = tiny_model(tiny_cfg(), spread=0.5).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        detections = model(_images())[0]["instances"]
    assert len(detections) > 0
    for name in ("scores", "pred_boxes_sigma", "localization_quality"):
        assert detections.get(name).dtype == torch.float32
    assert detections.pred_boxes.tensor.dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", True), ("cuda", False), ("cuda:1", False)]
)
def test_channels_last_is_for_a_cpu(device: str, expected: bool) -> None:
    asked = tiny_cfg(**{"MODEL.DEVICE": device, "MODEL.CHANNELS_LAST": True})
    assert uses_channels_last(asked) is expected
    assert not uses_channels_last(tiny_cfg(**{"MODEL.DEVICE": device}))


def test_channels_last_changes_the_layout_and_nothing_else() -> None:
    plain = tiny_model(tiny_cfg(**NO_CHOICE), spread=0.5)
    last = tiny_model(tiny_cfg(**NO_CHOICE, **{"MODEL.CHANNELS_LAST": True}))
    last.load_state_dict(plain.state_dict())
    images = last.preprocess_image([labeled_image(0)]).tensor
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, plain.preprocess_image([labeled_image(0)]).tensor)
    losses, expected = _backward(last, _images()), _backward(plain, _images())
    _assert_close(losses, expected)
    _assert_close(_gradients(last), _gradients(plain))
    # Kernels of other processors sum in other orders: nothing else may come of that, either.
    backbone_forward = plain.backbone.forward
    plain.backbone.forward = lambda images: _rounded_otherwise(backbone_forward(images))
    _assert_close(_backward(plain, _images()), expected)


def _rounded_otherwise(features: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: level * (1.0 + 1e-6 * torch.randn(level.shape, generator=generator))
        for name, level in features.items()
    }


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.detach().abs().max())
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-4 * scale + 1e-9, check_stride=False, msg=name
        )
