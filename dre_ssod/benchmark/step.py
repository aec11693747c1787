"""A whole training step against the parts that no semi-supervised step can do without."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from dre_ssod.benchmark.boxes import threshold_for
from dre_ssod.benchmark.memory import peak_bytes
from dre_ssod.benchmark.pretended_gpu import pretended_gpu
from dre_ssod.benchmark.report import Goal, Report, Row
from dre_ssod.benchmark.timing import Timing, add, interleave, machine, ratio
from dre_ssod.benchmark.waits import OWNERS, Waits, gpu_waits
from dre_ssod.engine.step import SemiSupervisedStep
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.errors import ConfigError
from dre_ssod.memory.machine import resident_bytes
from dre_ssod.methods import Clock, build_method, method_class
from dre_ssod.modeling.rcnn import uses_channels_last
from dre_ssod.modeling.student_batch import PairBatch, StudentBatch
from dre_ssod.structures import TrainingBatch
from dre_ssod.teacher import Labels, observe

MAX_TIME_RATIO = 1.10
MAX_MEMORY_RATIO = 1.10
MAX_WAITS = 1
PLAIN = "MeanTeacher"
MAX_METHOD_RATIO = 1.05
# Where a machine emulates the number format of the config, its steps take several times as long.
MAX_AUTOCAST_RATIO = 4 / 3


class StepParts:
    """One batch of a config's data, and what a step does with it, whole and in parts."""

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: complete, of a method with unlabeled images; a negative SEED means 0. Trained
                weights are not needed: tau is lowered until the teacher gives as many pseudo-boxes
                per image as there are labeled ones.

        Raises:
            ConfigError: for a supervised baseline.
        """
        if not method_class(cfg).uses_unlabeled:
            raise ConfigError(
                f"SSOD.ENABLED is {cfg.SSOD.ENABLED} and SSOD.METHOD {cfg.SSOD.METHOD!r}; the "
                "benchmark compares a semi-supervised step with its parts: choose a config that "
                "uses unlabeled images."
            )
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SSOD.BURN_IN_ITERS = 0
        # The same images and weights whenever it runs.
        cfg.SEED = max(cfg.SEED, 0)
        torch.manual_seed(cfg.SEED)
        with tempfile.TemporaryDirectory() as folder:
            cfg.OUTPUT_DIR = folder
            trainer = SSODTrainer(cfg)
        self.trainer = trainer
        self.step: SemiSupervisedStep = trainer._trainer
        # The same work, but every round finds the same weights; random ones would soon diverge at
        # the config's rate.
        for group in self.step.optimizer.param_groups:
            group["lr"] = 0.0
        self.batch: TrainingBatch = next(iter(trainer.build_paired_loader()))
        bound = self._matching_threshold()
        for key in method_class(cfg).threshold_keys():
            cfg.merge_from_list([key, bound])
        self.step.method = build_method(cfg)
        self.step.method.prepare(trainer.pools)
        self.step.method.study(trainer.pools)
        self.step.data_loader = itertools.repeat(self.batch)
        with torch.no_grad():
            given = self.step.method.student_batch(self.step.teacher, self.batch, self._clock)
        self._all_labeled = _all_labeled(given)
        while not self.step.method.is_warm:
            self.whole()

    def _matching_threshold(self) -> float:
        boxes = sum(len(image["instances"]) for image in self.batch.labeled)
        boxes = max(1, boxes * len(self.batch.unlabeled) // len(self.batch.labeled))
        seen = observe(self.step.teacher, self.batch.unlabeled, 0.0)
        scores = torch.cat([labels.gt_scores for labels in seen.detections])
        return threshold_for(scores, boxes)

    @property
    def _clock(self) -> Clock:
        return Clock(self.trainer.start_iter, 0, self.trainer.max_iter)

    def _label(self) -> Labels:
        return self.step.method.label(self.step.teacher, self.batch.unlabeled, self._clock)

    def whole(self) -> None:
        """Everything but the wait for images."""
        with EventStorage(self.trainer.start_iter) as storage:
            storage.iter = self.step.iter = self.trainer.start_iter
            self.step.run_step()

    def whole_in_float32(self) -> None:
        """The same without autocast."""
        settings = self.step.settings
        self.step.settings = replace(settings, autocast_dtype=None)
        try:
            self.whole()
        finally:
            self.step.settings = settings

    def student(self) -> None:
        """Forward and backward of plain Faster R-CNN losses on the same images and boxes."""
        self.step.optimizer.zero_grad()
        with EventStorage(), self.step._autocast():
            losses = self.step.model(self._all_labeled)
        losses.total(lambda name: 1.0).backward()

    def teacher(self) -> None:
        """Forward on the weak views, to the method's pseudo-labels."""
        with self.step._autocast():
            self._label()

    def optimizer(self) -> None:
        """Gradient clipping, where configured, and the optimizer's step."""
        self.step.optimizer.step()


def _all_labeled(given: StudentBatch | PairBatch) -> StudentBatch | PairBatch:
    """The same images and boxes for the detector's own losses."""
    if isinstance(given, PairBatch):
        first, second = _all_labeled(given.first), _all_labeled(given.second)
        assert isinstance(first, StudentBatch)
        assert isinstance(second, StudentBatch)
        return PairBatch(first, second)
    assert given.labels is not None, "a benchmark has unlabeled images"
    strong = [
        {**view, "instances": labels}
        for view, labels in zip(given.strong, given.labels.cls.instances(), strict=True)
    ]
    return StudentBatch(labeled=[*given.labeled, *strong])


def benchmark_step(cfg: CfgNode, rounds: int) -> Report:
    """Time and peak memory of a step and of its unavoidable parts, on one batch."""
    parts = StepParts(cfg)
    device = parts.step.device
    is_mixed = parts.step.settings.autocast_dtype is not None
    before = {"step in float32": parts.whole_in_float32} if is_mixed else {}
    timings, over = time_parts(parts, rounds, before)
    report = Report(
        "step",
        {
            "labeled": len(parts.batch.labeled),
            "unlabeled": len(parts.batch.unlabeled),
            "strong views": [sample.strong.size for sample in parts.batch.unlabeled],
            "sampled RoIs per image": cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
            "channels_last": uses_channels_last(cfg),
            "autocast": str(parts.step.settings.autocast_dtype),
            "rounds": rounds,
        },
        machine(device),
        [Row.milliseconds(name, timing) for name, timing in timings.items()],
        [
            Goal("step over student + teacher + optimizer", over, MAX_TIME_RATIO),
        ],
    )
    if "step in float32" in timings:
        slower = ratio(timings["step"], timings["step in float32"])
        report.goals.append(Goal("step over the same in float32", slower, MAX_AUTOCAST_RATIO))
    peak = resident_bytes(peak=True)
    report.rows.append(Row("peak of the whole process, so far", peak / 2**20, "MiB"))
    if cfg.SSOD.METHOD != PLAIN:
        report.goals.append(_over_mean_teacher(cfg, parts, rounds))
    _add_memory(report, parts, device)
    _add_waits(report, cfg, parts)
    return report


def time_parts(
    parts: StepParts, rounds: int, before: Mapping[str, Callable[[], None]]
) -> tuple[dict[str, Timing], float]:
    """Timings of a step and of its parts by name, and the step over the sum of its parts.

    Args:
        before: further tasks, the first of each round.
    """
    device = parts.step.device
    tasks = {"step": parts.whole, "student": parts.student, "teacher": parts.teacher}
    timings = interleave({**before, **tasks}, rounds, device)
    # Last: it needs the gradients that the student leaves behind.
    timings |= interleave({"optimizer": parts.optimizer}, rounds, device)
    needed = add(timings["student"], timings["teacher"], timings["optimizer"])
    return timings, ratio(timings["step"], needed)


def _over_mean_teacher(cfg: CfgNode, parts: StepParts, rounds: int) -> Goal:
    """The method's step over that of the plain mean teacher with as many pseudo-labels.

    On a CPU by the processors' time.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SSOD.METHOD = PLAIN
    cfg.MODEL.META_ARCHITECTURE = method_class(cfg).architecture
    device = parts.step.device
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    tasks = {"step": parts.whole, PLAIN: StepParts(cfg).whole}
    timings = interleave(tasks, rounds, device, clock)
    name = f"step over that of {PLAIN}"
    return Goal(name, ratio(timings["step"], timings[PLAIN]), MAX_METHOD_RATIO)


def _add_memory(report: Report, parts: StepParts, device: torch.device) -> None:
    student = peak_bytes(parts.student, device)
    whole = peak_bytes(parts.whole, device)
    weights = sum(
        t.numel() * t.element_size()
        for t in [*parts.step.teacher.parameters(), *parts.step.teacher.buffers()]
    )
    activation = _largest_activation(parts)
    extra = whole - student + weights
    megabytes = {
        "peak of the student alone": student,
        "peak of the step, without the teacher's weights": whole,
        "teacher's weights": weights,
        "teacher's largest activation": activation,
    }
    report.rows += [Row(name, value / 2**20, "MiB") for name, value in megabytes.items()]
    report.goals.append(
        Goal(
            "memory a step adds over the teacher's weights and largest activation",
            extra / (weights + activation),
            MAX_MEMORY_RATIO,
        )
    )


def _add_waits(report: Report, cfg: CfgNode, parts: StepParts) -> None:
    """How often the host waits for a GPU: on one, or on a pretended one beside a CPU."""
    found = waits_of_a_step(cfg, parts)
    report.rows += [Row(f"waits for a GPU: {owner}", found.of(owner), "") for owner in OWNERS]
    report.rows.append(Row("copies to the host that are awaited by an event", found.arrivals, ""))
    report.settings["this project waits in"] = [
        place for owner, place in found.places if owner == "dre_ssod"
    ]
    report.goals.append(Goal("waits of this project's code", found.of("dre_ssod"), MAX_WAITS))


def waits_of_a_step(cfg: CfgNode, parts: StepParts) -> Waits:
    """Of one step: as PyTorch reports them on a GPU; where there is none, on a pretended one."""
    if parts.step.device.type == "cuda":
        with gpu_waits() as found:
            parts.whole()
        return found
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cuda"
    with pretended_gpu() as found:
        pretended = StepParts(cfg)
        found.clear()
        pretended.whole()
    return found


def _largest_activation(parts: StepParts) -> int:
    """Bytes of the largest tensor that a module of the teacher returns."""
    sizes = [0]

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel() * output.element_size())

    handles = [module.register_forward_hook(note) for module in parts.step.teacher.modules()]
    parts.teacher()
    for handle in handles:
        handle.remove()
    return max(sizes)
