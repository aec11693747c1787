"""Programs of the checkout on the device: tests that need a GPU, and tools on a trained model."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator

import torch

from dre_ssod.benchmark.report import Goal, Row
from dre_ssod.benchmark.timing import machine
from dre_ssod.data.sources.catalog import load_unlabeled
from dre_ssod.deployment.trained_model import InferenceReader, load_trained
from dre_ssod.gpu_check.findings import Fact, Finding, Setting
from dre_ssod.gpu_check.numerics import without_tf32
from dre_ssod.gpu_check.scratch import large_set, sample_cfg
from dre_ssod.gpu_check.training import TRAINED

TESTS = ("tests/test_transfers.py", "tests/test_teacher.py", "tests/test_geometry.py")

IMAGES = "sample://labeled"


def environment(setting: Setting) -> Iterator[Finding]:
    """The machine; and the images of the other steps are drawn."""
    for name, value in machine(setting.device).items():
        yield Fact(name, value)
    if setting.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        yield Fact("compute capability", f"{properties.major}.{properties.minor}")
        yield Row("free memory", free / 2**30, "GiB")
        yield Row("memory", total / 2**30, "GiB")
        yield Fact("CUDA", torch.version.cuda)
        yield Fact("cuDNN", torch.backends.cudnn.version())
        yield Fact("bfloat16 in hardware", torch.cuda.is_bf16_supported(False))
    yield Fact("large set", large_set(setting)[0])
    yield Fact("classes of the sample set", sample_cfg(setting).MODEL.ROI_HEADS.NUM_CLASSES)


def tests(setting: Setting) -> Iterator[Finding]:
    """The test files that have tests for a GPU."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    code, output = _run(setting, words)
    yield Fact("closing lines", "\n    ".join(["", *output.splitlines()[-40:]]))
    yield Goal("exit code of pytest", code, 0)


def tools(setting: Setting) -> Iterator[Finding]:
    """The tools on the model of the training step."""
    run = setting.folder / TRAINED
    config = ["--config-file", str(run / "config.yaml")]
    model = ["MODEL.WEIGHTS", str(run / "model_final.pth"), "MODEL.DEVICE", setting.device]
    model += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01"]
    yield from _exported(setting, config, model)
    digests = []
    for number in range(2):
        output = setting.folder / f"labeled{number}"
        words = ["tools/pseudo_label.py", *config, "--input", IMAGES, "--output", str(output)]
        yield from _tool(setting, "pseudo_label", [*words, "--min-score", "0.05", *model])
        files = sorted(output.glob("*.json"))
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    yield Fact("files of pseudo_label", len(digests[0]))
    yield Goal("files in which two runs differ", sum(map(str.__ne__, *digests)), 0)
    words = ["tools/analyze_localization.py", *config, "--output", str(setting.folder / "analysis")]
    test_set = ["DATASETS.TEST", "('sample://val',)"]
    yield from _tool(setting, "analyze_localization", [*words, *model, *test_set])


def _exported(setting: Setting, config: list[str], model: list[str]) -> Iterator[Finding]:
    """A trace that was made on the device, loaded on the CPU."""
    folder = setting.folder / "exported"
    words = ["tools/export_model.py", *config, "--output", str(folder), "--images", IMAGES]
    yield from _tool(setting, "export_model", [*words, "--count", "8", *model])
    traced = torch.jit.load(str(folder / "model.ts"), map_location="cpu")
    cfg = sample_cfg(
        setting,
        {
            "MODEL.DEVICE": "cpu",
            "MODEL.WEIGHTS": setting.folder / TRAINED / "model_final.pth",
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.01,
        },
    )
    image = InferenceReader(cfg)(load_unlabeled([IMAGES])[0]["file_name"])["image"]
    with without_tf32(), torch.no_grad():
        (expected,) = load_trained(cfg).inference([{"image": image}], do_postprocess=False)  # type: ignore[operator]
        names = json.loads((folder / "model.ts.json").read_text(encoding="utf-8"))["outputs"]
        boxes = dict(zip(names, traced(image), strict=True))["pred_boxes"]
    yield Row("detections of the trace on the CPU", len(boxes), "")
    same = boxes.shape == expected.pred_boxes.tensor.shape
    off = float((boxes - expected.pred_boxes.tensor).abs().max()) if same else float("inf")
    yield Goal("trace on the CPU against the model", off, 1e-3, "pixels")


def _tool(setting: Setting, name: str, words: list[str]) -> Iterator[Finding]:
    code, output = _run(setting, words)
    if code:
        yield Fact(f"output of {name}", "\n    ".join(["", *output.splitlines()[-60:]]))
    yield Goal(f"exit code of {name}", code, 0)


def _run(setting: Setting, words: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=setting.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
