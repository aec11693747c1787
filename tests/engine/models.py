"""Models that tests of the engine share."""

from __future__ import annotations

import torch

from dre_ssod.modeling.rcnn import SemiSupervisedRCNN


def opinionated(model: SemiSupervisedRCNN) -> SemiSupervisedRCNN:
    """Change a model of spread-out outputs into a teacher that is sure of scores and boxes.

    Large variances would make every s_loc, and with it every weight, zero.
    """
    with torch.no_grad():
        for detector in model.detectors:
            for parameter in detector.roi_heads.box_predictor.log_variance.parameters():
                parameter.mul_(0.02)
    return model
