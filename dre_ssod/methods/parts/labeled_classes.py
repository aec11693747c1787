"""How often the labeled images show each class."""

from __future__ import annotations

import torch
from torch import Tensor

from dre_ssod.data.records import objects_of
from dre_ssod.data.splits.pools import Pools


def boxes_per_image(pools: Pools) -> Tensor:
    """(K,) boxes of each class per labeled image, with boxes or without; a class has at least one
    in all of them."""
    boxes = torch.zeros(len(pools.classes))
    for record in pools.labeled:
        for item in objects_of(record):
            boxes[item["category_id"]] += 1.0
    return boxes.clamp(min=1.0) / pools.looked_at
