"""After ISMT, Interactive Self-Training (CVPR 2021): only the structure of it is public.

Known: one backbone and RPN with two box heads. What the moving average of head h finds in an
unlabeled image joins by NMS what it found in it before, M_h, so that labels are an ensemble over
time. Head 1 learns from the labels of head 2 and head 2 from those of head 1. DropBlock with masks
of its own in front of each head (``MODEL.ROI_BOX_HEAD.DROP_BLOCK``) keeps the two apart::

    P_h = NMS(M_h[image] + D_h)      M_h[image] <- P_h      head 1 learns P_2, head 2 learns P_1

Not known, and therefore chosen here:

- the memory starts empty after the burn-in, holds boxes in pixels of the image, and forgets: what
  D_h does not confirm, by a box of its class with IoU 0.5 or more, keeps a part of its score;
- labels are what P_h has from tau on; the heads have one structure and start apart;
- the RPN learns from the images and labels of both, by the mean of its losses; its weight is that
  of one;
- DropBlock drops 0.1 in blocks of 3 x 3, one mask for all channels, from the first iteration on,
  and in labeled images, too;
- beta, the decay and its start after the burn-in are those of the config, as the mean teacher's;
  the paper's first step, training on labels alone, is the burn-in, where the config has one;
- tested is the first head alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils import comm
from torch import Tensor

from dre_ssod.data.splits.pools import Pools
from dre_ssod.geometry import map_boxes
from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.pairs.pair import Found, Pair
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.settings import Number, setting
from dre_ssod.structures import UnlabeledSample
from dre_ssod.teacher import observe
from dre_ssod.transfers import chosen

logger = logging.getLogger(__name__)

SAME_IOU = 0.5
"""Boxes of a class with at least this IoU are one object; also that of NMS."""
NUMBERS = 6
"""Of a remembered box: x1, y1, x2, y2, its class, its score."""
DIGIT = 2**24
"""Whole numbers below it are exact in float32, in which processes add up what they have found."""


@METHODS.register()
class ISMTLike(Pair):
    """Two heads that label for each other, with a memory of what each has found."""

    architecture = "TwoHeadedRCNN"

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        score_threshold: float = setting(
            "SSOD.ISMT_LIKE.SCORE_THRESHOLD",
            0.8,
            "tau: from this score on a remembered box becomes a pseudo-label.",
            Number(0.0, 1.0),
        )
        min_score: float = setting(
            "SSOD.ISMT_LIKE.MIN_SCORE",
            0.3,
            "Lowest score of a box that is remembered.",
            Number(0.0, 1.0),
        )
        kept: int = setting(
            "SSOD.ISMT_LIKE.KEPT", 30, "Boxes remembered of an image and head.", Number(1, 1000)
        )
        forgetting: float = setting(
            "SSOD.ISMT_LIKE.FORGETTING",
            0.9,
            "What a box that is not found again keeps of its score.",
            Number(0.0, 1.0),
        )

    def __init__(self, settings: Any, images_per_step: int) -> None:
        """
        Args:
            images_per_step: unlabeled images of all processes.
        """
        super().__init__(settings)
        self._images_per_step = images_per_step
        self._positions: dict[str, int] = {}
        # By head and position in the pool.
        self._memory: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})
        # Of the pool that the memory is of; "" where it is not known.
        self._digest = ""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ISMTLike:
        labeled, unlabeled = cfg.SSOD.LABELED_TO_UNLABELED
        images = cfg.SOLVER.IMS_PER_BATCH * unlabeled // (labeled + unlabeled)
        return cls(cls.settings_of(cfg), images)

    def prepare(self, pools: Pools) -> Pools:
        names = [record["file_name"] for record in pools.unlabeled]
        self._positions = {name: position for position, name in enumerate(names)}
        # Wherever they lie.
        files = "\n".join(Path(name).name for name in names)
        digest = hashlib.sha256(files.encode(errors="surrogatepass")).hexdigest()
        if self._digest not in ("", digest):
            logger.warning(
                "The unlabeled images are not those, or not in the order, of the run so far: "
                "ISMTLike forgets what it has seen in %d of them.",
                max(map(len, self._memory)),
            )
            self._memory = {}, {}
        self._digest = digest
        return pools

    # Labels

    def find(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> tuple[Found, Found]:
        """P_2 for the first head and P_1 for the second, from tau on.

        The detections of each pass are the whole P_h.
        """
        tau = self.settings.score_threshold
        found = []
        for number, head in enumerate(teacher.detectors):
            seen = observe(head, samples, self.settings.min_score)
            pairs = zip(seen.detections, samples, strict=True)
            fused = [self.fuse(number, *pair) for pair in pairs]
            labels = [chosen(joined, joined.gt_scores >= tau) for joined in fused]
            found.append((replace(seen, detections=fused), labels))
        first, second = found
        return second, first

    def fuse(self, head: int, found: Instances, sample: UnlabeledSample) -> Instances:
        """P_h of an image, in the coordinates of its weak view."""
        remembered = self._memory[head].get(self._positions.get(sample.file_name, -1))
        if remembered is None:
            remembered = torch.zeros(0, NUMBERS)
        rows = remembered.to(found.gt_scores.device, non_blocking=True)
        boxes = map_boxes(rows[:, :4], sample.weak.matrix)
        before = Instances(
            found.image_size,
            gt_boxes=Boxes(boxes),
            gt_classes=rows[:, 4].long(),
            gt_scores=rows[:, 5],
        )
        return fused(before, found, self.settings.forgetting)[: self.settings.kept]

    # The memory, the same on all processes

    def counts(
        self, found: tuple[Found, Found], samples: Sequence[UnlabeledSample]
    ) -> Mapping[str, Tensor]:
        """Where in the pool the images of a pass stand, from 1 and in two digits, and what they
        show by head."""
        (second, _), (first, _) = found
        device = first.detections[0].gt_scores.device
        places = torch.tensor(
            [divmod(self._positions.get(s.file_name, -1) + 1, DIGIT) for s in samples],
            dtype=torch.float32,
        )
        boxes = torch.zeros(len(places), 2, self.settings.kept, NUMBERS, device=device)
        for number, sample in enumerate(samples):
            back = torch.linalg.inv(sample.weak.matrix)
            for head, seen in enumerate((first, second)):
                rows = _rows(seen.detections[number], back, self.settings.min_score)
                boxes[number, head, : len(rows)] = rows
        return {"positions": places.to(device, non_blocking=True), "boxes": boxes}

    def tally(self, passes: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Each process fills its own rows, so that their sum is what all have found."""
        first = comm.get_rank() * self._images_per_step // comm.get_world_size()
        totals = {}
        for name in passes[0] if passes else ():
            own = torch.cat([counts[name] for counts in passes])
            totals[name] = own.new_zeros(self._images_per_step, *own.shape[1:])
            totals[name][first : first + len(own)] = own
        return totals

    def learn(self, totals: Mapping[str, Tensor]) -> None:
        """M_h[image] <- P_h."""
        if not totals:
            return
        for digits, heads in zip(totals["positions"].tolist(), totals["boxes"], strict=True):
            position = int(digits[0]) * DIGIT + int(digits[1])
            if position > 0:
                for memory, rows in zip(self._memory, heads, strict=True):
                    memory[position - 1] = rows[rows[:, 5] > 0.0].clone()

    def state_dict(self) -> dict[str, Any]:
        return {"memory": [_packed(memory) for memory in self._memory], "digest": self._digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        first, second = state["memory"]
        self._memory = _unpacked(first), _unpacked(second)
        # Earlier checkpoints have none.
        self._digest = state.get("digest", "")


def _packed(memory: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """The boxes of all images in one tensor: files of many tensors take long to write and read."""
    return {
        "positions": torch.tensor(list(memory), dtype=torch.int64),
        "lengths": torch.tensor([len(rows) for rows in memory.values()], dtype=torch.int64),
        "boxes": torch.cat([torch.zeros(0, NUMBERS), *memory.values()]),
    }


def _unpacked(memory: Mapping[Any, Tensor]) -> dict[int, Tensor]:
    """Inverse of :func:`_packed`; checkpoints of early 0.2.0 have a tensor of each image."""
    if "boxes" not in memory:
        return dict(memory)
    rows = memory["boxes"].split(memory["lengths"].tolist())
    return dict(zip(memory["positions"].tolist(), rows, strict=True))


def fused(before: Instances, found: Instances, forgetting: float) -> Instances:
    """NMS, within each class, of what was remembered and what is found; best scores first.

    Args:
        forgetting: factor of the scores of what is not found again.
    """
    found = Instances(
        found.image_size,
        **{name: found.get(name) for name in ("gt_boxes", "gt_classes", "gt_scores")},
    )
    same = pairwise_iou(before.gt_boxes, found.gt_boxes) >= SAME_IOU
    same &= before.gt_classes[:, None] == found.gt_classes
    before.gt_scores = torch.where(same.any(dim=1), 1.0, forgetting) * before.gt_scores
    both = Instances.cat([before, found])
    kept = batched_nms(both.gt_boxes.tensor, both.gt_scores, both.gt_classes, SAME_IOU)
    return both[kept]


def _rows(labels: Instances, back: Tensor, min_score: float) -> Tensor:
    """(R, NUMBERS) of labels, in pixels of the image.

    Those below the bound have score 0 and are not learned: no GPU is waited for to leave them out.
    """
    boxes = map_boxes(labels.gt_boxes.tensor, back)
    scores = torch.where(labels.gt_scores >= min_score, labels.gt_scores, 0.0)
    return torch.cat([boxes, labels.gt_classes[:, None].float(), scores[:, None]], dim=1)
