"""Bounds of scores."""

from __future__ import annotations

import torch


def above(threshold: float) -> float:
    """The lowest score beyond a bound that a score must exceed, not only reach."""
    return torch.nextafter(torch.tensor(threshold), torch.tensor(2.0)).item()
