"""Draws docs/images/architecture.svg: the rooms of the package, and the flow of a training step.

    python -m docs.draw_architecture

Rooms and floors are those that tests/test_layers.py holds the imports against. Each stage of the
flow names a call, which must stand in the function that it names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from dre_ssod.engine.step import SemiSupervisedStep as Step
from dre_ssod.engine.training_data import build_training_loader
from dre_ssod.methods import MeanTeacher
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.roi_heads import GaussianROIHeads
from tests import ROOT
from tests.test_layers import FLOORS

PICTURE = ROOT / "docs" / "images" / "architecture.svg"


class Stage(NamedTuple):
    """One call of a step.

    Attributes:
        moment: number of the moment at which a method decides; 0 for none.
        text: what happens.
        function: where the call stands.
        call: as it is written there.
    """

    moment: int
    text: str
    function: Callable[..., Any]
    call: str


FLOW = (
    Stage(1, "views: labeled, weak, strong", build_training_loader, "method.mappers(cfg)"),
    Stage(
        0,
        "one batch of labeled and unlabeled images",
        Step.draw_and_learn,
        "self._data_loader_iter",
    ),
    Stage(2, "the teacher's pseudo-labels", MeanTeacher.student_batch, "self.label("),
    Stage(3, "images mixed, or not", MeanTeacher.with_labels, "self.mixer("),
    Stage(0, "the student, one forward pass", Step.compute_losses, "self.model("),
    Stage(0, "features of all images", SemiSupervisedRCNN.student_losses, "self.backbone("),
    Stage(0, "labels, read now", SemiSupervisedRCNN.student_losses, "batch.read_labels()"),
    Stage(0, "regions sampled and predicted", GaussianROIHeads.student_losses, "sample_regions("),
    Stage(4, "losses of regions", GaussianROIHeads.student_losses, "method.losses("),
    Stage(4, "what unlabeled images teach", MeanTeacher.losses, "self.unlabeled_losses("),
    Stage(0, "total loss, eq. 3", Step._forward_and_backward, "losses.total(self.weight)"),
    Stage(0, "one all-reduce, one copy to the host", Step.draw_and_learn, "metrics.exchange("),
    Stage(0, "the student steps", Step.draw_and_learn, "self.grad_scaler.step("),
    Stage(5, "the teacher follows", Step.draw_and_learn, "self.method.decay("),
)

WIDTH, ROW, BOX = 1400, 44, 30
FLOW_LEFT = 720
STYLE = """
text { font-family: Helvetica, Arial, sans-serif; font-size: 13px; fill: #1b1f24 }
.title { font-size: 16px; font-weight: bold }
.code { font-family: Menlo, Consolas, monospace; font-size: 11px; fill: #57606a }
.room { fill: #ddebf7; stroke: #8fb3d5 }
.methods { fill: #fde6c8; stroke: #d9a253 }
.moment { fill: #fde6c8; stroke: #d9a253 }
.stage { fill: #f6f8fa; stroke: #d0d7de }
.line { stroke: #8c959f; stroke-width: 1.5 }
"""


def draw() -> str:
    """The picture.

    Raises:
        ValueError: if a call is no longer where the flow says.
    """
    height = max(ROW * len(FLOORS), ROW * len(FLOW)) + 80
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(20, 30, "Rooms: each may use every floor below its own", "title"),
        _text(FLOW_LEFT, 30, "A training step: numbers are a method's five moments", "title"),
        *_rooms(),
        *_flow(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _rooms() -> Iterator[str]:
    for number, floor in enumerate(reversed(FLOORS)):
        y = 50 + number * ROW
        x = 20.0
        for room in sorted(floor):
            label = room.replace(".", "/")
            width = 7.4 * len(label) + 16
            yield _box(x, y, width, "methods" if room == "methods" else "room")
            yield _text(x + 8, y + 20, label)
            x += width + 8


def _flow() -> Iterator[str]:
    for number, stage in enumerate(FLOW):
        if stage.call not in inspect.getsource(stage.function):
            raise ValueError(f"{stage.call!r} does not stand in {stage.function.__qualname__}")
        y = 50 + number * ROW
        if number:
            middle = FLOW_LEFT + 14
            yield f'<path class="line" d="M {middle} {y - ROW + BOX} V {y}"/>'
        yield _box(FLOW_LEFT, y, WIDTH - FLOW_LEFT - 20, "moment" if stage.moment else "stage")
        if stage.moment:
            yield _text(FLOW_LEFT + 9, y + 20, str(stage.moment), "title")
        yield _text(FLOW_LEFT + 30, y + 20, stage.text)
        file = Path(inspect.getfile(stage.function)).relative_to(ROOT / "dre_ssod")
        yield _text(FLOW_LEFT + 320, y + 20, f"{file.as_posix()}: {stage.call}", "code")


def _box(x: float, y: float, width: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{BOX}" rx="5"/>'
    )


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.0f}" y="{y:.0f}">{escape(words)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE)
