"""How often the labeled images show each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dre_ssod.data.records import objects_of


def boxes_per_image(labeled: Sequence[dict[str, Any]], num_classes: int) -> Tensor:
    """(K,) boxes of each class per labeled image; a class has at least one in all of them.

    Args:
        labeled: records in Detectron2's format.
        num_classes: K.
    """
    boxes = torch.zeros(num_classes)
    for record in labeled:
        for item in objects_of(record):
            boxes[item["category_id"]] += 1.0
    return boxes.clamp(min=1.0) / len(labeled)
