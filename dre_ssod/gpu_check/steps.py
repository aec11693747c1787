"""The steps of the check, in an order in which a cut-off costs the least."""

from __future__ import annotations

from dre_ssod.gpu_check.findings import Step
from dre_ssod.gpu_check.numerics import losses_and_gradients, pooled_features
from dre_ssod.gpu_check.processes import nccl_alone, two_by_gloo
from dre_ssod.gpu_check.programs import environment, tests, tools
from dre_ssod.gpu_check.speed import loading, new_sizes, profiled, step_times, waits
from dre_ssod.gpu_check.training import evaluating, resuming, training

STEPS = (
    Step("environment", environment, limit=60.0),
    Step("tests", tests, limit=60.0),
    Step("losses", losses_and_gradients, limit=90.0),
    Step("pooling", pooled_features, limit=30.0),
    Step("waits", waits, limit=40.0),
    Step("nccl", nccl_alone, limit=45.0, needs_gpu=True),
    Step("processes", two_by_gloo, limit=60.0),
    Step("speed", step_times, limit=150.0),
    Step("sizes", new_sizes, limit=90.0),
    Step("profile", profiled, limit=45.0, needs_gpu=True),
    Step("loading", loading, limit=60.0),
    Step("training", training, limit=90.0),
    Step("evaluating", evaluating, limit=60.0, after="training"),
    Step("tools", tools, limit=120.0, after="training"),
    Step("resuming", resuming, limit=90.0),
)
