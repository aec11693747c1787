"""Whole runs and tools with ``MODEL.DEVICE "cuda"`` on a pretended GPU: nothing mixes devices, and
training waits once a step."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import train_net
from dre_ssod.benchmark.pretended_gpu import GPU, pretended_gpu
from dre_ssod.benchmark.waits import Waits
from dre_ssod.config.checks import check_config
from dre_ssod.config.reading import read_config
from dre_ssod.engine.setup import complete
from dre_ssod.engine.trainer import SSODTrainer
from tests.factories import BOXES, FEWER_LAYERS, SIZE, draw, tiny_cfg, tiny_model
from tests.methods.every import EXPECTED, overrides_of
from tests.tiny_dataset import TinyDataset, loggers_kept, tiny_run

ITERATIONS = 2
AMP = {"SOLVER.AMP.ENABLED": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16 with scaled gradients": {**AMP, "SOLVER.AMP.DTYPE": "float16"},
    "bfloat16, channels-last, clipped": {
        **AMP,
        "SOLVER.AMP.DTYPE": "bfloat16",
        "MODEL.CHANNELS_LAST": True,
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    },
    "trained norms, accumulation, panels": {
        "MODEL.TIMM.NORM": "BN",
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.ACCUMULATION_STEPS": 2,
        "SSOD.PANEL_PERIOD": ITERATIONS,
    },
    "refined detections in batches": {
        "TEST.VARIANCE_VOTING.ENABLED": True,
        "TEST.RANK_BY_QUALITY": True,
        "TEST.IMS_PER_BATCH": 3,
        "TEST.PSEUDO_LABEL_SET": "the labeled set",
    },
    "supervised": {"SSOD.ENABLED": False},
    "neither PRC nor LER": {"SSOD.PRC.ENABLED": False, "SSOD.LER.ENABLED": False},
    "class-agnostic smooth L1": {
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "smooth_l1",
        "SSOD.PRC.ENABLED": False,
        "SSOD.LER.ENABLED": False,
    },
}
EVALUATED = ("float32", "refined detections in batches", "supervised")


def train(data: TinyDataset, folder: Path, **overrides: Any) -> tuple[SSODTrainer, Waits]:
    """A run from building it to its last checkpoint, and the waits of its loop."""
    chosen = {
        "MODEL.DEVICE": "cuda",
        "SOLVER.MAX_ITER": ITERATIONS,
        "SOLVER.STEPS": (ITERATIONS - 1,),
        "SOLVER.WARMUP_ITERS": 0,
        "TEST.EVAL_PERIOD": 0,
        **overrides,
    }
    cfg = tiny_run(data, folder / "run", **chosen)
    if chosen.get("TEST.PSEUDO_LABEL_SET"):
        cfg.TEST.PSEUDO_LABEL_SET = data.labeled
    with pretended_gpu() as found, loggers_kept():
        complete(cfg)
        check_config(cfg, world_size=1)
        trainer = SSODTrainer(cfg)
        trainer.resume_or_load(resume=False)
        found.clear()
        trainer.train()
        assert next(trainer.student.parameters()).device == GPU
    return trainer, found


def own(found: Waits) -> list[str]:
    """The files of this project that waited in training; evaluation and pictures may."""
    may = ("dre_ssod.evaluation.", "dre_ssod.inspection.", "dre_ssod.modeling.refinement:")
    places = (place for owner, place in found.places.elements() if owner == "dre_ssod")
    return [place.split(":")[0] for place in places if not place.startswith(may)]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run(name: str, data: TinyDataset, tmp_path: Path) -> None:
    overrides = {**({} if name in EVALUATED else {"DATASETS.TEST": ()}), **CONFIGS[name]}
    _, found = train(data, tmp_path, **overrides)
    assert own(found) == ["dre_ssod.engine.metrics"] * ITERATIONS, found.places
    # Its state is read for checkpoints, too.
    assert found.of("scaler") >= (ITERATIONS if name.startswith("float16") else 0)
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    assert saved["iteration"] == ITERATIONS - 1
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == ITERATIONS - 1
    assert (found.arrivals > 0) == (name != "supervised")


def test_a_run_that_diverges(data: TinyDataset, tmp_path: Path) -> None:
    overrides = {"SOLVER.ON_NONFINITE": "skip", "SOLVER.BASE_LR": 1000.0, "DATASETS.TEST": ()}
    trainer, _ = train(data, tmp_path, **{"SOLVER.MAX_ITER": 4, **overrides})
    step: Any = trainer._trainer
    assert step.guard.skipped > 0


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"DRE", "Supervised"}))
def test_a_method(name: str, data: TinyDataset, tmp_path: Path) -> None:
    overrides = overrides_of(name, data, tmp_path)
    _, found = train(data, tmp_path, **{"DATASETS.TEST": (), **overrides})
    assert set(own(found)) >= {"dre_ssod.engine.metrics"}


@pytest.fixture(scope="module")
def model(data: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a tool: a config for the GPU and a model that finds boxes."""
    folder = tmp_path_factory.mktemp("model")
    cfg = tiny_cfg(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05, **FEWER_LAYERS})
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (data.labeled,)
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": tiny_model(cfg, spread=0.5).state_dict()}, folder / "model.pth")
    (folder / "images").mkdir()
    for number in range(3):
        pixels = draw(SIZE, BOXES, seed=number).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    return [str(folder), "MODEL.WEIGHTS", f"{folder}/model.pth", "MODEL.DEVICE", "cuda"]


@pytest.mark.parametrize("name", ["pseudo_label", "analyze_localization", "demo"])
def test_a_tool(name: str, model: list[str], tmp_path: Path) -> None:
    folder, *options = model
    words = ["--config-file", f"{folder}/config.yaml", "--output", str(tmp_path / "out")]
    if name == "pseudo_label":
        words += ["--input", f"{folder}/images", "--classes", "a,b,c"]
    if name == "demo":
        words += ["--input", f"{folder}/images", "--classes", "a,b,c", "--opts"]
    tool = importlib.import_module(f"tools.{name}")
    with pretended_gpu() as found, loggers_kept():
        assert tool.run([*words, *options]) == 0
    assert found.of("detectron2") > 0, "it ran on the CPU"


def test_an_evaluation_alone(model: list[str], tmp_path: Path) -> None:
    folder, *options = model
    cfg = read_config(f"{folder}/config.yaml", options)
    cfg.SSOD.EVAL_MODEL = "teacher"
    cfg.OUTPUT_DIR = str(tmp_path)
    with pretended_gpu() as found, loggers_kept():
        complete(cfg)
        check_config(cfg, world_size=1)
        results = train_net.evaluate(cfg, "")
    assert found.of("detectron2") > 0, "it ran on the CPU"
    assert results
