"""A model, images, and a labeling job that is done; read only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from PIL import Image

from dre_ssod.deployment.labeling.labeling_job import LabelingJob
from tests.deployment.labeling_jobs import job_in, run
from tests.factories import BOXES, SIZE, draw, tiny_cfg, tiny_model


@pytest.fixture(scope="session")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> CfgNode:
    cfg = tiny_cfg(**{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.3})
    cfg.MODEL.WEIGHTS = str(tmp_path_factory.mktemp("model") / "model.pth")
    torch.save({"model": tiny_model(cfg, spread=0.5).state_dict()}, cfg.MODEL.WEIGHTS)
    return cfg


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images, of two sizes, and a broken one."""
    root = tmp_path_factory.mktemp("images")
    for number in range(7):
        size = SIZE if number % 2 else (SIZE[1], SIZE[0])
        pixels = draw(size, BOXES, seed=number).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(root / f"{number}.png")
    (root / "3 broken.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="session")
def finished(cfg: CfgNode, images: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelingJob:
    job = job_in(tmp_path_factory.mktemp("work") / "job", images)
    run(job, cfg)
    return job
