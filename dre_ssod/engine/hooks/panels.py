"""Panels during training: what teacher and student make of images of the batch, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from dre_ssod.engine.step import SemiSupervisedStep
from dre_ssod.inspection.inspect import inspect
from dre_ssod.inspection.panels import draw_inspection, write_picture
from dre_ssod.methods import method_class
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN

PANEL_IMAGES = 2
"""Images of the batch that are drawn."""


class PanelHook(HookBase):
    """Draws images of the batch of every ``period``-th step, into files and into TensorBoard.

    Works on the main process alone, on the models as the step left them.
    """

    def __init__(
        self,
        period: int,
        step: SemiSupervisedStep,
        student: SemiSupervisedRCNN,
        output_dir: str,
        class_names: Sequence[str],
        image_format: str,
    ) -> None:
        """
        Args:
            period: in iterations; at least 1.
            step: whose newest batch is drawn.
            student: without its DDP wrapper.
            output_dir: of the run; files go to its folder ``panels``.
            class_names: by class index.
            image_format: channel order of the views, "RGB" or "BGR".
        """
        self._period = period
        self._step = step
        self._student = student
        self._folder = Path(output_dir) / "panels"
        self._class_names = class_names
        self._image_format = image_format

    def after_step(self) -> None:
        """Draw, if it is time; during the burn-in there is nothing to draw."""
        iteration, batch = self.trainer.iter, self._step.last_batch
        if (iteration + 1) % self._period or batch is None or not batch.unlabeled:
            return
        if not comm.is_main_process():
            return
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


def panel_hook(
    cfg: CfgNode,
    step: SemiSupervisedStep,
    student: SemiSupervisedRCNN,
    class_names: Sequence[str],
) -> PanelHook | None:
    """The hook that a config asks for; None where it is off or there are no unlabeled images."""
    if not method_class(cfg).uses_unlabeled or cfg.SSOD.PANEL_PERIOD == 0:
        return None
    return PanelHook(
        cfg.SSOD.PANEL_PERIOD, step, student, cfg.OUTPUT_DIR, class_names, cfg.INPUT.FORMAT
    )
