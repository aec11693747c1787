"""The Gaussian box head: class scores, box offsets and the variance of each offset (figure 4).

Shapes: R regions, K foreground classes, C = K box codings a region, or 1 if class-agnostic.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from dre_ssod.modeling.box_transform import build_box_transform
from dre_ssod.modeling.gaussian import localization_quality


class BoxPredictions(NamedTuple):
    """What the head says of R regions, before softmax and decoding."""

    logits: Tensor
    """(R, K + 1), the background last."""
    deltas: Tensor
    """(R, C * 4) coded offsets t^e."""
    log_variance: Tensor | None
    """(R, C * 4) alpha = log(sigma^2), clamped; None without a variance branch."""

    def rows(self, selection: slice) -> BoxPredictions:
        """The predictions of a range of regions."""
        variance = None if self.log_variance is None else self.log_variance[selection]
        return BoxPredictions(self.logits[selection], self.deltas[selection], variance)


class GaussianFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Detectron2's output layers plus, for the KL loss, a fully connected variance branch."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        log_variance_range: tuple[float, float] | None,
        rescale_quality: bool = False,
        bounded_sigma: bool = False,
        beta_nll: float = 0.0,
        sigma_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: shape of the region features.
            log_variance_range: bounds of alpha; None builds no variance branch.
            rescale_quality: see :func:`localization_quality`.
            bounded_sigma: the branch predicts z with sigma = sigmoid(z), in (0, 1), in place of
                alpha; detections then carry the ``coded_sigma`` (R, 4) of their offsets.
            beta_nll: see :func:`dre_ssod.modeling.gaussian.kl_regression_loss`.
            sigma_scale: what sigma is multiplied by in eval mode, and so whatever a teacher says.
            kwargs: as for Detectron2's ``FastRCNNOutputLayers``.
        """
        super().__init__(input_shape, **kwargs)
        self.beta_nll = beta_nll
        self.sigma_scale = sigma_scale
        self.log_variance_range = log_variance_range
        self.rescale_quality = rescale_quality
        self.bounded_sigma = bounded_sigma
        if log_variance_range is not None:
            self.log_variance = nn.Linear(self.bbox_pred.in_features, self.bbox_pred.out_features)
            nn.init.normal_(self.log_variance.weight, std=1e-4)
            nn.init.zeros_(self.log_variance.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        head = cfg.MODEL.ROI_BOX_HEAD
        is_gaussian = head.BBOX_REG_LOSS_TYPE == "kl"
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        arguments["box2box_transform"] = build_box_transform(
            head.BOX_TRANSFORM, head.BBOX_REG_WEIGHTS
        )
        arguments["log_variance_range"] = (
            tuple(cfg.SSOD.LOG_VARIANCE_RANGE) if is_gaussian else None
        )
        arguments["rescale_quality"] = cfg.SSOD.RESCALE_LOCALIZATION_QUALITY
        arguments["bounded_sigma"] = head.BOUNDED_SIGMA
        arguments["beta_nll"] = head.BETA_NLL
        arguments["sigma_scale"] = head.SIGMA_SCALE
        return arguments

    def forward(self, x: Tensor) -> BoxPredictions:
        """Predict from region features (R, ...)."""
        logits, deltas = super().forward(x)
        if self.log_variance_range is None:
            return BoxPredictions(logits, deltas, None)
        alpha = self.log_variance(torch.flatten(x, start_dim=1)).float()
        alpha = alpha.clamp(*self.log_variance_range)
        if self.bounded_sigma:
            alpha = 2.0 * F.logsigmoid(alpha)
        if not self.training and self.sigma_scale != 1.0:
            alpha = alpha + 2.0 * math.log(self.sigma_scale)
        return BoxPredictions(logits, deltas, alpha)

    def of_class(self, per_class: Tensor, classes: Tensor) -> Tensor:
        """Pick (R, 4) out of (R, C * 4): the coding of each region's class in [0, K)."""
        if per_class.shape[1] == 4:
            return per_class
        per_class = per_class.unflatten(1, (per_class.shape[1] // 4, 4))
        # Row numbers would tie a traced model to the device that it was traced on.
        return per_class.gather(1, classes[:, None, None].expand(-1, 1, 4)).squeeze(1)

    def predict_boxes(
        self, predictions: BoxPredictions, proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Decoded boxes, (Ri, C * 4) per image."""
        boxes: tuple[Tensor, ...] = super().predict_boxes(
            (predictions.logits, predictions.deltas), proposals
        )
        return boxes

    def predict_probs(
        self, predictions: BoxPredictions, proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Class probabilities in float32, (Ri, K + 1) per image."""
        probabilities = F.softmax(predictions.logits.float(), dim=-1)
        return probabilities.split([len(p) for p in proposals])

    def _select(
        self,
        predictions: BoxPredictions,
        proposals: list[Instances],
        scores: tuple[Tensor, ...],
        score_thresh: float,
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections with a score above ``score_thresh`` after NMS.

        Args:
            scores: (Ri, K + 1) per image, the background last.

        Returns:
            per image, ``Instances`` with ``pred_boxes``, ``scores``, ``pred_classes`` and, with a
            variance branch, ``pred_boxes_sigma`` (R, 4) in pixels of the proposals' image and
            ``localization_quality`` (R,); and per image the (R,) indices of the kept proposals.
        """
        if not proposals:
            return [], []
        boxes = self.predict_boxes(predictions, proposals)
        detections, kept = fast_rcnn_inference(
            boxes,
            scores,
            [p.image_size for p in proposals],
            score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )
        # Detectron2 numbers the kept rows after it has dropped non-finite ones: row i is the first
        # that has i + 1 finite ones up to it, so as many rows as have fewer come before it. What
        # searches sorted numbers would do the same, but cannot be exported to ONNX.
        finite = [
            (torch.isfinite(b).all(dim=1) & torch.isfinite(s).all(dim=1)).long().cumsum(0)
            for b, s in zip(boxes, scores, strict=True)
        ]
        kept = [(c <= rows[:, None]).sum(1) for c, rows in zip(finite, kept, strict=True)]
        self._add_uncertainty(detections, kept, predictions, proposals)
        return detections, kept

    def _add_uncertainty(
        self,
        detections: list[Instances],
        kept: list[Tensor],
        predictions: BoxPredictions,
        proposals: list[Instances],
    ) -> None:
        if predictions.log_variance is None:
            return
        sizes = [len(p) for p in proposals]
        deltas = predictions.deltas.split(sizes)
        log_variances = predictions.log_variance.split(sizes)
        for detection, rows, delta, log_variance, proposal in zip(
            detections, kept, deltas, log_variances, proposals, strict=True
        ):
            classes = detection.pred_classes
            alpha = self.of_class(log_variance[rows], classes)
            detection.pred_boxes_sigma = self.box2box_transform.corner_sigma(
                self.of_class(delta[rows], classes), alpha, proposal.proposal_boxes.tensor[rows]
            )
            detection.localization_quality = localization_quality(alpha, self.rescale_quality)
            if self.bounded_sigma:
                detection.coded_sigma = torch.exp(0.5 * alpha)
