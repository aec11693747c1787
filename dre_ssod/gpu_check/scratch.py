"""Images and configs that the steps share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from PIL import Image

from dre_ssod.benchmark.boxes import draw_truth
from dre_ssod.config.checks import check_config
from dre_ssod.config.reading import read_config
from dre_ssod.engine.setup import complete
from dre_ssod.gpu_check.findings import Setting

CLASSES = 80
IMAGES = 128
# The stages of a ResNet with random weights and frozen norms multiply what they are given: with
# Detectron2's deviation of 1.0 its maps reach thousands, and float16 may overflow.
RANDOM_WEIGHTS = {"MODEL.WEIGHTS": "", "MODEL.PIXEL_STD": [57.0, 57.0, 57.0]}

TINY = {
    "MODEL.TIMM.NAME": "test_efficientnet",
    "MODEL.TIMM.WEIGHTS": "",
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "INPUT.MIN_SIZE_TRAIN": (48, 64),
    "INPUT.MIN_SIZE_TEST": 64,
}
"""The detector of a dry run."""


def large_set(setting: Setting) -> tuple[str, str]:
    """Sources of labeled and of unlabeled images with COCO's statistics: noise that JPEG likes."""
    folder = setting.folder / "large"
    annotations = folder / "labels.json"
    if not annotations.is_file():
        _write(folder, 16 if setting.small else IMAGES)
    return f"coco://{annotations}?images={folder}/images", f"folder://{folder}/images"


def _write(folder: Path, count: int) -> None:
    truth = draw_truth(count, CLASSES, seed=0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number, image in enumerate(truth["images"]):
        image["file_name"] = f"{number:06d}.jpg"
        coarse = rng.integers(0, 256, (image["height"] // 8, image["width"] // 8, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((image["width"], image["height"]))
        picture.save(folder / "images" / image["file_name"], quality=90)
    (folder / "labels.json").write_text(json.dumps(truth), encoding="utf-8")


def paper_cfg(setting: Setting, overrides: Mapping[str, Any] | None = None) -> CfgNode:
    """The paper's detector and batch, 4 + 16 images, with random weights; small: another one."""
    labeled, unlabeled = large_set(setting)
    given: dict[str, Any] = {
        **RANDOM_WEIGHTS,
        "DATASETS.TRAIN": (labeled,),
        "DATASETS.UNLABELED": (unlabeled,),
        # The same images serve as both.
        "DATASETS.UNLABELED_OVERLAP": True,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
        "SEED": 1,
    }
    if setting.small:
        given |= {**TINY, "SOLVER.IMS_PER_BATCH": 5}
    name = "Base-small-cpu.yaml" if setting.small else "Base-RCNN-FPN.yaml"
    return make_cfg(setting, name, {**given, **(overrides or {})})


@contextlib.contextmanager
def tf32_kept() -> Iterator[None]:
    """Afterwards float32 is computed as before, whatever was set meanwhile."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def sample_cfg(setting: Setting, overrides: Mapping[str, Any] | None = None) -> CfgNode:
    """``configs/quickstart.yaml``: the small detector on the built-in sample set."""
    given = {"DATASETS.TEST": (), **(TINY if setting.small else {})}
    return make_cfg(setting, "quickstart.yaml", {**given, **(overrides or {})})


def make_cfg(setting: Setting, name: str, overrides: Mapping[str, Any]) -> CfgNode:
    """A config of the checkout, checked, on the device of the check and in float32."""
    changed = {
        "MODEL.DEVICE": setting.device,
        "OUTPUT_DIR": setting.folder / "run",
        "SOLVER.AMP.ENABLED": False,
        "DATALOADER.NUM_WORKERS": 0,
        **overrides,
    }
    words = [str(word) for pair in changed.items() for word in pair]
    cfg = read_config(str(setting.root / "configs" / name), words)
    # MODEL.TF32 is for the whole process; here steps say themselves where there is none.
    with tf32_kept():
        complete(cfg)
    check_config(cfg, world_size=comm.get_world_size())
    return cfg
