"""The supervised baseline: labeled images alone, on the same path."""

from __future__ import annotations

from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher


@METHODS.register()
class Supervised(MeanTeacher):
    """Loads no unlabeled image; the "teacher" is the moving average of the student."""

    uses_unlabeled = False
    view_keys = ("LABELED_VIEW",)
    unread = (
        *("score_threshold", "unsup_loss_weight", "unsup_warmup_iters"),
        *("rpn_objectness", "rpn_box", "pcv"),
    )
