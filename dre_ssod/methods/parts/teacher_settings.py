"""What all methods with a teacher share, by the paper's symbols."""

from __future__ import annotations

from dataclasses import dataclass

from dre_ssod.settings import Number, setting


@dataclass(frozen=True)
class TeacherSettings:
    """Scores, weights and the moving average."""

    score_threshold: float = setting(
        "SSOD.SCORE_THRESHOLD",
        0.8,
        "tau: from this foreground score on a detection of the teacher becomes a pseudo-label.",
        Number(0.0, 1.0),
    )
    unsup_loss_weight: float = setting(
        "SSOD.UNSUP_LOSS_WEIGHT",
        4.0,
        "Weight of all unsupervised losses: beta of DRE's eq. 3, Soft Teacher's alpha, "
        "Unbiased Teacher's lambda_u.",
        Number(0.0, 1e6),
    )
    unsup_warmup_iters: int = setting(
        "SSOD.UNSUP_WARMUP_ITERS",
        0,
        "Iterations after the burn-in over which the weights of all unsupervised losses grow "
        "linearly to their full values; 0: full from the first, as in the paper.",
        Number(0, 10**9),
    )
    ema_decay: float = setting(
        "SSOD.EMA.DECAY",
        0.999,
        "Upper bound of the decay; step t after the burn-in uses min(DECAY, 1 - 1 / (t + 1)).",
        Number(0.0, 1.0),
    )
    ema_horizon: float = setting(
        "SSOD.EMA.HORIZON",
        0.0,
        "Longest look back of the moving average, as a share of SOLVER.MAX_ITER: DECAY is at "
        "most 1 - 1 / (HORIZON * MAX_ITER), so that the teacher of a short run is not left "
        "behind. 0: DECAY alone, as in the paper.",
        Number(0.0, 1.0),
    )
    burn_in_copy: bool = setting(
        "SSOD.BURN_IN_COPY",
        True,
        "The burn-in ends with a copy of the student in the teacher, and the average starts "
        "again. The copy is made after the first step with unlabeled images, whose labels are "
        "still of the average of the burn-in; with Unbiased Teacher's rate, before it. False: "
        "the teacher stays that average, the better of the two once the burn-in is much longer "
        "than 1 / (1 - EMA.DECAY) iterations.",
    )
    rpn_objectness: bool = setting(
        "SSOD.UNSUP_RPN_OBJECTNESS", True, "Pseudo-labels train the RPN's objectness."
    )
    rpn_box: bool = setting("SSOD.UNSUP_RPN_BOX", True, "Pseudo-labels train the RPN's boxes.")
    pcv: bool = setting(
        "SSOD.PCV.ENABLED",
        False,
        "PseCo's positive-proposal consistency voting: the box loss of a pseudo-label is "
        "weighed by how well the boxes that the student predicts for it agree with it.",
    )
