"""Methods are tested inside the detector, with what its tests need around them."""

from __future__ import annotations

from tests.modeling.conftest import event_storage, seeded

__all__ = ["event_storage", "seeded"]
