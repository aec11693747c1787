"""Strong views of earlier steps with their pseudo-labels, for methods that mix images over time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OlderView:
    """A strong view as it was before it was mixed.

    Attributes:
        image: (3, H, W) uint8, on the host.
        labels: ``gt_boxes`` and ``gt_classes``, in its coordinates, by the teacher of its step.
    """

    image: Tensor
    labels: Instances


class OlderViews:
    """The newest strong views of this process.

    A checkpoint holds those of all processes. A run that continues with as many processes is the
    same to the last bit; with another number, process r takes what process r modulo the number
    before had.
    """

    def __init__(self, fewest: int) -> None:
        """
        Args:
            fewest: how many are kept; those of a whole step, if it has more.
        """
        self._kept = fewest
        self._views: list[OlderView] = []

    @property
    def views(self) -> Sequence[OlderView]:
        """From the oldest to the newest."""
        return self._views

    @property
    def are_enough(self) -> bool:
        """Whether as many are here as are kept."""
        return len(self._views) >= self._kept

    def suffice_for(self, count: int) -> bool:
        """Whether a step with this many views can be mixed: each has a partner of its own."""
        return self.are_enough and len(self._views) >= count

    def add(self, images: Sequence[Tensor], labels: Sequence[Instances]) -> None:
        """Take in the N views of a step, and let go of the oldest.

        Args:
            images: (3, H, W) uint8 each.
            labels: with ``gt_boxes`` and ``gt_classes``.
        """
        added = [OlderView(*pair) for pair in zip(images, labels, strict=True)]
        self._views = [*self._views, *added][-max(self._kept, len(added)) :]

    def state_dict(self) -> dict[str, Any]:
        """Those of all processes, on the first one. Asked for on all of them at once."""
        own = [
            {
                "image": view.image.clone(),
                "boxes": view.labels.gt_boxes.tensor.cpu().clone(),
                "classes": view.labels.gt_classes.cpu().clone(),
            }
            for view in self._views
        ]
        return {"processes": comm.gather(own)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`, on each process."""
        processes = state["processes"]
        if len(processes) != comm.get_world_size():
            logger.warning(
                "%d processes had kept older views, and there are %d now: each takes over those of "
                "one of them.",
                len(processes),
                comm.get_world_size(),
            )
        self._views = [
            OlderView(
                view["image"],
                Instances(
                    tuple(view["image"].shape[1:]),
                    gt_boxes=Boxes(view["boxes"]),
                    gt_classes=view["classes"],
                ),
            )
            for view in processes[comm.get_rank() % len(processes)]
        ]
