"""What the variance does for detections: ranking by quality, and variance voting.

Evaluation and use refine detections as ``cfg.TEST`` says; pseudo-labels are refined where a method
asks for it. Of ``cfg.TEST`` nothing refines those, and DETECTIONS_PER_IMAGE bounds their number.
Shapes: R regions, K foreground classes, C box codings per region; D detections, M candidates of one
image; boxes are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, nonzero_tuple
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_iou

from dre_ssod.modeling.box_predictor import BoxPredictions, GaussianFastRCNNOutputLayers
from dre_ssod.modeling.gaussian import localization_quality


@dataclass(frozen=True)
class Refinement:
    """How detections make use of the variance.

    Attributes:
        rank_by_quality: they are scored by score times quality, 2 s_loc.
        voting_sigma_t: boxes are refined by :func:`vote_boxes`; None: they are not.
    """

    rank_by_quality: bool = False
    voting_sigma_t: float | None = None


PLAIN = Refinement()
"""None at all."""


class RefiningFastRCNNOutputLayers(GaussianFastRCNNOutputLayers):
    """The Gaussian box head, whose :meth:`inference` makes use of the variance."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        refinement: Refinement = PLAIN,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: shape of the region features.
            refinement: of :meth:`inference`.
            kwargs: as for ``GaussianFastRCNNOutputLayers``.
        """
        super().__init__(input_shape, **kwargs)
        self.refinement = refinement

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        voting = cfg.TEST.VARIANCE_VOTING
        return {
            **super().from_config(cfg, input_shape),
            "refinement": Refinement(
                cfg.TEST.RANK_BY_QUALITY, voting.SIGMA_T if voting.ENABLED else None
            ),
        }

    def inference(
        self, predictions: BoxPredictions, proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections for evaluation and use; see :meth:`refined`."""
        return self.refined(predictions, proposals, self.test_score_thresh, self.refinement)

    def refined(
        self,
        predictions: BoxPredictions,
        proposals: list[Instances],
        score_thresh: float,
        refinement: Refinement,
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections with a score above ``score_thresh``; see :meth:`_select` for their fields.

        Ranked by quality, NMS, the choice of the best and the ``scores`` of the result, in (0, 1),
        go by score times 2 s_loc, while the threshold bounds the score alone. Whatever it is, all
        regions above ``MODEL.ROI_HEADS.SCORE_THRESH_TEST`` vote. After voting, sigma and quality
        are still those of the box before it.
        """
        scores = self.predict_probs(predictions, proposals)
        if refinement.rank_by_quality:
            ranked = self._times_quality(scores, predictions, score_thresh)
            detections, kept = self._select(predictions, proposals, ranked, -0.5)
        else:
            detections, kept = self._select(predictions, proposals, scores, score_thresh)
        if refinement.voting_sigma_t is not None:
            self._vote(detections, predictions, proposals, scores, refinement.voting_sigma_t)
        return detections, kept

    def _times_quality(
        self, scores: tuple[Tensor, ...], predictions: BoxPredictions, score_thresh: float
    ) -> tuple[Tensor, ...]:
        """Scores (Ri, K + 1) times 2 s_loc of each class; -1 where they are not above the bound.

        Twice s_loc, whatever ``SSOD.RESCALE_LOCALIZATION_QUALITY`` says of losses: a sure and
        certain box then scores close to 1, as readers of scores and their thresholds expect, and
        the order is that of eq. 12's product. A product may be 0 where s_loc underflows, so a bound
        of its own must lie below.
        """
        assert predictions.log_variance is not None, "ranking by quality needs the kl loss"
        alpha = predictions.log_variance
        quality = localization_quality(alpha.reshape(-1, 4), rescale=True)
        # (R, C) against (R, K): one quality for all classes where the box is class-agnostic.
        qualities = quality.reshape(-1, alpha.shape[1] // 4).split([len(s) for s in scores])
        ranked = []
        for score, factor in zip(scores, qualities, strict=True):
            foreground = score[:, :-1]
            product = torch.where(foreground > score_thresh, foreground * factor, -1.0)
            ranked.append(torch.cat([product, score[:, -1:]], dim=1))
        return tuple(ranked)

    def _vote(
        self,
        detections: list[Instances],
        predictions: BoxPredictions,
        proposals: list[Instances],
        scores: tuple[Tensor, ...],
        sigma_t: float,
    ) -> None:
        """Refine the boxes of the detections by all regions that score above the test bound."""
        assert predictions.log_variance is not None, "variance voting needs the kl loss"
        sizes = [len(p) for p in proposals]
        boxes = self.predict_boxes(predictions, proposals)
        deltas = predictions.deltas.split(sizes)
        log_variances = predictions.log_variance.split(sizes)
        for detection, score, box, delta, log_variance, proposal in zip(
            detections, scores, boxes, deltas, log_variances, proposals, strict=True
        ):
            # Comparing with NaN is false, so a region without finite scores has no vote.
            finite = torch.isfinite(box).all(dim=1, keepdim=True)
            rows, classes = nonzero_tuple((score[:, :-1] > self.test_score_thresh) & finite)
            candidates = Boxes(self.of_class(box[rows], classes))
            candidates.clip(detection.image_size)
            sigma = self.box2box_transform.corner_sigma(
                self.of_class(delta[rows], classes),
                self.of_class(log_variance[rows], classes),
                proposal.proposal_boxes.tensor[rows],
            )
            voted = vote_boxes(
                detection.pred_boxes.tensor,
                detection.pred_classes,
                candidates.tensor,
                classes,
                sigma,
                sigma_t,
            )
            detection.pred_boxes = Boxes(voted)


def vote_boxes(
    boxes: Tensor,
    classes: Tensor,
    candidates: Tensor,
    candidate_classes: Tensor,
    candidate_sigma: Tensor,
    sigma_t: float,
) -> Tensor:
    """Move each edge to the mean of what the candidates of the box's class say of it.

    Variance voting of He et al., *Bounding Box Regression with Uncertainty for Accurate Object
    Detection* (2019).

    A candidate c that overlaps a detection b votes on coordinate k with the weight
    ``exp(-(1 - IoU(b, c))^2 / sigma_t) / sigma_k(c)^2``: near and certain boxes count most.

    Args:
        boxes: (D, 4) detections that survived NMS.
        classes: (D,)
        candidates: (M, 4) boxes before NMS, the detections among them.
        candidate_classes: (M,)
        candidate_sigma: (M, 4) standard deviations in pixels, positive.
        sigma_t: how far a voter may be; close to 0 no box but the detection itself counts.

    Returns:
        (D, 4) of the dtype of ``boxes``. A detection that no candidate overlaps stays as it is.
    """
    # In float64 neither autocast nor TF32 touches the two matrix products below, which would cost
    # whole pixels. Boxes without area have no IoU: NaN, which is not above 0.
    overlap = box_iou(boxes.double(), candidates.double())
    nearness = torch.exp(-(1.0 - overlap).square() / sigma_t)
    votes = (overlap > 0.0) & (classes[:, None] == candidate_classes[None, :])
    nearness = torch.where(votes, nearness, torch.zeros_like(nearness))
    precision = candidate_sigma.double().square().reciprocal()
    weight = nearness @ precision
    mean = (nearness @ (precision * candidates.double())) / weight
    return torch.where(weight > 0.0, mean, boxes.double()).to(boxes.dtype)
