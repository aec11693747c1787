"""Small configs, models and images for tests; the same call gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from dre_ssod.config.keys import get_cfg
from dre_ssod.data.splits.pools import Pools
from dre_ssod.geometry import map_boxes
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.structures import UnlabeledSample, View

NUM_CLASSES = 3
SIZE = (64, 96)
"""(height, width) of the images, unless told otherwise."""
BOXES = ((8.0, 8.0, 40.0, 40.0), (50.0, 20.0, 74.0, 44.0))
"""Two squares that images show, unless told otherwise."""


def beta_4(term: str) -> float:
    """The weights of eq. 3 with beta 4."""
    return 4.0 if term.endswith("_unsup") else 1.0


FEWER_LAYERS = {"MODEL.TIMM.NAME": "test_efficientnet"}
"""Halves the layers of the tiny detector, as those of runs have."""

gpu_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def tiny_cfg(**overrides: Any) -> CfgNode:
    """A detector of half a million random weights that takes milliseconds an image on a CPU.

    Args:
        overrides: config keys, as in ``tiny_cfg(**{"SSOD.PRC.ENABLED": False})``.
    """
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.PIXEL_STD = [58.0, 57.0, 57.0]
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = "mobilenetv3_small_050"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.7, 1.4]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 60
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 60
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 40
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 40
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 24
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 64)
    cfg.INPUT.MAX_SIZE_TRAIN = 96
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.INPUT.MAX_SIZE_TEST = 96
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.merge_from_list([item for pair in overrides.items() for item in pair])
    return cfg


def labels_alone(
    labeled: Sequence[dict[str, Any]], num_classes: int = NUM_CLASSES, empty: int = 0
) -> Pools:
    """Pools of these labeled records, and of so many labeled images more that have no box."""
    return Pools(list(labeled), [], [str(k) for k in range(num_classes)], None, (), empty)


def tiny_model(cfg: CfgNode, seed: int = 0, spread: float = 0.0) -> SemiSupervisedRCNN:
    """The model of ``cfg`` with weights drawn from ``seed``; the global RNG is left as it was.

    Args:
        spread: if positive, redraws the output layers and the RPN so that what they predict has
            about this deviation: scores, offsets and variances then differ from box to box.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: SemiSupervisedRCNN = build_model(cfg)
        if spread > 0.0:
            for detector in model.detectors:
                _spread(detector, spread)
    return model


def _spread(model: SemiSupervisedRCNN, deviation: float) -> None:
    predictor = model.roi_heads.box_predictor
    for name in ("cls_score", "bbox_pred", "log_variance"):
        layer = getattr(predictor, name, None)
        if layer is not None:
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.normal_(layer.bias, std=0.1 * deviation)
    for layer in model.proposal_generator.rpn_head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=deviation / layer.weight[0].numel() ** 0.5)


def draw(
    size: tuple[int, int],
    boxes: Sequence[Sequence[float]],
    matrix: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """(3, H, W) uint8: dark noise with a bright colored rectangle at each box.

    Args:
        size: (height, width) of the result.
        boxes: (x1, y1, x2, y2) in original coordinates.
        matrix: (3, 3), from original to result coordinates; None for the identity.
    """
    height, width = size
    inverse = torch.linalg.inv(torch.eye(3, dtype=torch.float64) if matrix is None else matrix)
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5,
        torch.arange(width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    x = inverse[0, 0] * xs + inverse[0, 1] * ys + inverse[0, 2]
    y = inverse[1, 0] * xs + inverse[1, 1] * ys + inverse[1, 2]
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 60, (3, height, width), generator=generator)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        color = torch.full((3, 1), 150)
        color[number % 3] = 255
        image[:, inside] = color
    return image.to(torch.uint8)


def labeled_image(
    seed: int = 0,
    boxes: Sequence[Sequence[float]] = BOXES,
    classes: Sequence[int] | None = None,
    size: tuple[int, int] = SIZE,
) -> dict[str, Any]:
    """One image as Detectron2's ``DatasetMapper`` gives it, with a rectangle drawn at each box."""
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    if classes is None:
        classes = [number % NUM_CLASSES for number in range(len(boxes))]
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return {
        "file_name": f"labeled{seed}.png",
        "image_id": seed,
        "height": size[0],
        "width": size[1],
        "image": draw(size, boxes, seed=seed),
        "instances": instances,
    }


def view(
    matrix: Tensor,
    boxes: Sequence[Sequence[float]] = BOXES,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
) -> View:
    """A view of ``size`` of an original that shows ``boxes``."""
    return View(image=draw(size, boxes, matrix, seed), matrix=matrix)


def affine(
    scale: float = 1.0, degrees: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """(3, 3) float64: scale, then rotate about the origin, then shift by (x, y) pixels."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 0] = matrix[1, 1] = scale * torch.cos(angle)
    matrix[1, 0] = scale * torch.sin(angle)
    matrix[0, 1] = -matrix[1, 0]
    matrix[:2, 2] = torch.tensor(shift, dtype=torch.float64)
    return matrix


def flip(width: int = SIZE[1]) -> Tensor:
    """(3, 3) float64: mirrors an image of this width, x to width - x."""
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 0] = -1.0
    matrix[0, 2] = float(width)
    return matrix


def unlabeled_sample(
    seed: int = 0,
    boxes: Sequence[Sequence[float]] = BOXES,
    weak: Tensor | None = None,
    strong: Tensor | None = None,
) -> UnlabeledSample:
    """Two views of one image that shows ``boxes``.

    Args:
        weak, strong: (3, 3) matrices of the views; None for the identity and for a flip with a
            slight rotation.
    """
    weak = affine() if weak is None else weak
    strong = affine(scale=0.9, degrees=5.0, shift=(4.0, 0.0)) @ flip() if strong is None else strong
    return UnlabeledSample(
        file_name=f"unlabeled{seed}.png",
        weak=view(weak, boxes, seed=2 * seed),
        strong=view(strong, boxes, seed=2 * seed + 1),
    )


def pseudo_labels(
    boxes: Sequence[Sequence[float]] = BOXES,
    quality: Sequence[float] | None = None,
    size: tuple[int, int] = SIZE,
) -> Instances:
    """Pseudo-labels in a view's own coordinates; quality s_loc, 0.25 for every box unless given."""
    quality = [0.25] * len(boxes) if quality is None else quality
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = Instances(size, gt_boxes=Boxes(tensor))
    labels.gt_classes = torch.arange(len(boxes)) % NUM_CLASSES
    labels.gt_scores = torch.full((len(boxes),), 0.9)
    labels.gt_localization_quality = torch.tensor(quality, dtype=torch.float32).reshape(-1)
    return labels


def assert_same(ours: Instances, theirs: Instances, **tolerances: float) -> None:
    """Same image size, same fields and the same in them, by ``torch.testing.assert_close``."""
    assert ours.image_size == theirs.image_size
    assert ours.get_fields().keys() == theirs.get_fields().keys()
    for name, value in theirs.get_fields().items():
        mine = ours.get(name)
        value, mine = (v.tensor if isinstance(v, Boxes) else v for v in (value, mine))
        torch.testing.assert_close(mine, value, **tolerances)


def mapped(boxes: Sequence[Sequence[float]], matrix: Tensor) -> Tensor:
    """(R, 4) float32 hulls of ``boxes`` under ``matrix``."""
    return map_boxes(torch.tensor(boxes, dtype=torch.float64), matrix).float()
