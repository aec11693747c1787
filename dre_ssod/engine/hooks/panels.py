"""Panels during training: what teacher and student make of images of the batch, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from dre_ssod.engine.step import SemiSupervisedStep
from dre_ssod.inspection.inspect import inspect
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN

PANEL_IMAGES = 2
"""Images of the batch that are drawn."""


class PanelHook(HookBase):
    """Draws images of a batch every SSOD.PANEL_PERIOD iterations, into files and into TensorBoard.

    Works on the main process alone, on the models as the step left them.
    """

    def __init__(
        self,
        cfg: CfgNode,
        step: SemiSupervisedStep,
        student: SemiSupervisedRCNN,
        class_names: Sequence[str],
    ) -> None:
        """
        Args:
            cfg: of the run; its ``SSOD.PANEL_PERIOD`` is at least 1 where the hook is used.
            step: whose newest batch is drawn.
            student: without its DDP wrapper.
            class_names: by class index.
        """
        self._period = cfg.SSOD.PANEL_PERIOD
        self._step = step
        self._student = student
        self._folder = Path(cfg.OUTPUT_DIR) / "panels"
        self._class_names = class_names
        self._image_format = cfg.INPUT.FORMAT

    def after_step(self) -> None:
        """Draw, if it is time; during the burn-in there is nothing to draw."""
        iteration, batch = self.trainer.iter, self._step.last_batch
        if (iteration + 1) % self._period or batch is None or not batch.unlabeled:
            return
        if not comm.is_main_process():
            return
        # Matplotlib takes as long to import as a small step: most runs draw nothing.
        from dre_ssod.inspection.panels import draw_inspection, write_picture

        found = inspect(
            self._step.teacher,
            self._student,
            batch.unlabeled[:PANEL_IMAGES],
            self._step.method,
            self._step.clock,
            seed=iteration,
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        for number, inspection in enumerate(found):
            picture = draw_inspection(inspection, self._class_names, self._image_format)
            write_picture(self._folder / f"{iteration:07d}_{number}.jpg", picture)
            self.trainer.storage.put_image(f"panels/image{number}", picture.transpose(2, 0, 1))
