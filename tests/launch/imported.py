"""What a process of a test has imported; imports nothing of this project itself."""

from __future__ import annotations

import sys


def is_imported(name: str) -> bool:
    return name in sys.modules
