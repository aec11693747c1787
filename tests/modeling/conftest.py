"""What every test of the detector needs around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from detectron2.utils.events import EventStorage


@pytest.fixture(autouse=True)
def event_storage() -> Iterator[EventStorage]:
    """Detectron2's training code logs to the storage in scope and fails without one."""
    with EventStorage() as storage:
        yield storage


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Detectron2 samples anchors and regions with the global RNG."""
    torch.manual_seed(0)
