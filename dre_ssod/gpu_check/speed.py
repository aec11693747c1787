"""How fast a device trains at the paper's size, what it waits for, whether a loader keeps up."""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from dre_ssod.benchmark.report import Goal, Row
from dre_ssod.benchmark.step import MAX_TIME_RATIO, StepParts, time_parts, waits_of_a_step
from dre_ssod.benchmark.timing import Timing, interleave, seconds_of
from dre_ssod.gpu_check.findings import Fact, Finding, Setting
from dre_ssod.gpu_check.numerics import number_formats
from dre_ssod.gpu_check.scratch import paper_cfg, sample_cfg

AUTO = {"SOLVER.AMP.ENABLED": True}
# Of the CUDA runtime and of its driver, by the beginnings of their names.
_HOST_CALLS = ("cudaLaunchKernel", "cuLaunchKernel", "cudaStreamSynchronize", "cudaMemcpyAsync")
# Heights and widths of batches, as the small detectors pad photographs to.
_SIZES = ((160, 224), (192, 256), (224, 320), (320, 192))
# A loader that is so many times as fast as the steps never keeps them waiting.
LOADER_RESERVE = 1.5


def waits(setting: Setting) -> Iterator[Finding]:
    """How often the host waits for the GPU in a step, by owner and place; dry: a pretended one."""
    for name, overrides in number_formats(setting).items():
        if name == "bfloat16":
            continue
        cfg = paper_cfg(setting, overrides)
        parts = StepParts(cfg)
        parts.whole()
        found = waits_of_a_step(cfg, parts)
        for owner in ("detectron2", "backward", "other"):
            yield Row(f"{name}: {owner}", found.of(owner), "")
        own = found.of("dre_ssod") + found.of("scaler")
        # GradScaler adds one: it asks whether the gradients are finite.
        yield Goal(f"{name}: dre_ssod and GradScaler", own, 2 if name == "float16" else 1)
        places = (f"{count:4d} {owner}: {at}" for (owner, at), count in found.places.most_common())
        yield Fact(f"{name}: places", "\n    ".join(["", *places]))
        del parts
        _free()


def step_times(setting: Setting) -> Iterator[Finding]:
    """Time and memory of a step of 4 + 16 images in each number format."""
    for name, overrides in number_formats(setting).items():
        yield from _timed(setting, name, paper_cfg(setting, overrides))
        _free()


def _timed(setting: Setting, name: str, cfg: CfgNode) -> Iterator[Finding]:
    parts = StepParts(cfg)
    rounds = 2 if setting.small else 5
    device = parts.step.device
    for _ in range(3):
        parts.whole()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    parts.whole()
    if device.type == "cuda":
        yield Row(f"{name}: peak allocated", torch.cuda.max_memory_allocated() / 2**30, "GiB")
        yield Row(f"{name}: peak reserved", torch.cuda.max_memory_reserved() / 2**30, "GiB")
    timings, over = time_parts(parts, rounds, {})
    for part, timing in timings.items():
        yield Row.milliseconds(f"{name}: {part}", timing)
    images = len(parts.batch.labeled) + len(parts.batch.unlabeled)
    yield Row(f"{name}: images a second", images / timings["step"].median, "")
    yield _judged(setting, f"{name}: step over its three parts", over, MAX_TIME_RATIO)


def profiled(setting: Setting) -> Iterator[Finding]:
    """What the GPU and the host do in three steps of float16."""
    parts = StepParts(paper_cfg(setting, AUTO))
    for _ in range(3):
        parts.whole()
    torch.cuda.synchronize()
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(3):
            parts.whole()
        torch.cuda.synchronize()
    wall = time.perf_counter() - start
    spans: list[tuple[int, int]] = []
    counts = dict.fromkeys(_HOST_CALLS, 0)
    for event in profiler.profiler.kineto_results.events():
        if event.device_type() == DeviceType.CUDA:
            # A span that is named on the host is drawn over the kernels that it covers.
            if not event.is_user_annotation():
                spans.append((event.start_ns(), event.end_ns()))
        elif call := next((call for call in _HOST_CALLS if event.name().startswith(call)), None):
            counts[call] += 1
    yield Row("wall time of a step under the profiler", wall / 3 * 1e3, "ms")
    yield Row("share of it in which the GPU computes or copies", covered(spans) / 1e9 / wall, "")
    for name, count in counts.items():
        yield Row(f"{name}, a step", count / 3, "")
    averages = profiler.key_averages()
    for order in ("self_device_time_total", "self_cpu_time_total"):
        table = averages.table(sort_by=order, row_limit=25, max_name_column_width=60)
        if setting.kept is not None:
            (setting.kept / f"{order}.txt").write_text(table, encoding="utf-8")
    if setting.kept is not None:
        profiler.export_chrome_trace(str(setting.kept / "trace.json.gz"))
        yield Fact("tables and trace", str(setting.kept))


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """The length of the union of intervals."""
    total, reached = 0, 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def new_sizes(setting: Setting) -> Iterator[Finding]:
    """A pass of the small backbone at sizes that the process has not seen, and the same again.

    Photographs have many sizes, and the libraries choose, or compile, kernels for each.
    """
    sizes = _SIZES[:1] if setting.small else _SIZES
    ways = {
        "contiguous": (False, True, False),
        "channels-last": (True, True, False),
        "no cuDNN": (False, False, False),
        "16 bits, contiguous": (False, True, True),
        "16 bits, channels-last": (True, True, True),
    }
    for way, (channels_last, cudnn, autocast) in ways.items():
        layout = torch.channels_last if channels_last else torch.contiguous_format
        cfg = sample_cfg(setting, {"MODEL.CHANNELS_LAST": channels_last})
        backbone = build_backbone(cfg).to(device=setting.device, memory_format=layout)
        passes: tuple[list[float], list[float]] = ([], [])
        kind = torch.device(setting.device).type
        with (
            torch.backends.cudnn.flags(enabled=cudnn),
            torch.autocast(kind, torch.bfloat16, enabled=autocast),
        ):
            for (height, width), times in itertools.product(sizes, passes):
                images = torch.rand(8, 3, height, width, device=setting.device)
                times.append(_seconds_of_pass(backbone, images.to(memory_format=layout)))
        for which, times in zip(("first", "second"), passes, strict=True):
            yield Row.milliseconds(f"{way}: {which} pass at a size", Timing(tuple(times)))


def _seconds_of_pass(backbone: nn.Module, images: torch.Tensor) -> float:
    """Forward and backward."""
    return seconds_of(
        lambda: sum(level.sum() for level in backbone(images).values()).backward(), images.device
    )


def loading(setting: Setting) -> Iterator[Finding]:
    """Batches of the loader alone, by the number of its workers; then steps that it feeds."""
    batches = 3 if setting.small else 20
    workers = [1] if setting.small else [4, 8, min(14, max(1, (os.cpu_count() or 1) - 2))]
    best: float = 0.0
    for count in workers:
        rate = _loader_rate(paper_cfg(setting, {"DATALOADER.NUM_WORKERS": count}), batches, count)
        best = max(best, rate)
        yield Row(f"{count} workers: batches a second", rate, "")
    overrides = {**AUTO, "DATALOADER.NUM_WORKERS": workers[-1]}
    parts = StepParts(paper_cfg(setting, overrides))
    for _ in range(3):
        parts.whole()
    timing = interleave({"step": parts.whole}, batches, parts.step.device)["step"]
    yield Row.milliseconds("step on a batch that is there", timing)
    rates = 1 / timing.median / best
    yield _judged(setting, "steps a second over batches a second", rates, 1 / LOADER_RESERVE)
    shared_memory = _shared_memory()
    parts.step.data_loader = parts.trainer.build_paired_loader()
    parts.step._data_loader_iter_obj = None
    for _ in range(3):
        parts.whole()
    device = parts.step.device
    fed = Timing(tuple(seconds_of(parts.whole, device) for _ in range(batches)))
    yield Row.milliseconds("step that the loader feeds, batches of all sizes", fed)
    yield Row("mean of the same", sum(fed.seconds) / batches * 1e3, "ms")
    yield Row("shared memory that it took", (_shared_memory() - shared_memory) / 2**20, "MiB")
    if setting.on_gpu:
        yield Row("peak reserved", torch.cuda.max_memory_reserved() / 2**30, "GiB")
        yield Row("peak allocated", torch.cuda.max_memory_allocated() / 2**30, "GiB")


def _loader_rate(cfg: CfgNode, batches: int, workers: int) -> float:
    """Batches a second once the first ones, which were loaded meanwhile, are gone."""
    iterator = iter(StepParts(cfg).trainer.build_paired_loader())
    for _ in range(2 * workers + 1):
        next(iterator)
    start = time.perf_counter()
    for _ in itertools.repeat(None, batches):
        next(iterator)
    return batches / (time.perf_counter() - start)


def _judged(setting: Setting, name: str, value: float, bound: float) -> Finding:
    """A figure with its bound, but for a dry run: that measures nothing."""
    return Row(name, value, "") if setting.small else Goal(name, value, bound)


def _shared_memory() -> int:
    """Bytes of shared memory in use, 0 where the system does not say."""
    if not Path("/dev/shm").is_dir():
        return 0
    found = os.statvfs("/dev/shm")
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _free() -> None:
    """Give back what the last configuration held."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
