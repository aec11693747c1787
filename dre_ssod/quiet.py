"""What Detectron2 and PyTorch print at each start, and no user can do anything about.

Only these messages are silenced; a filter that the user asks Python for (``-W``, PYTHONWARNINGS)
comes before them.
"""

from __future__ import annotations

import logging
import warnings
from functools import partial

# Where it starts, and which category it has.
_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # detectron2.layers and fvcore.nn compile functions when they are imported.
    (r"`torch\.jit\.script` is (deprecated|not supported in Python)", FutureWarning),
    # detectron2.model_zoo looks for its files by it.
    ("pkg_resources is deprecated", UserWarning),
    # Detectron2's anchors.
    (r"torch\.meshgrid: in an upcoming release", UserWarning),
)
_RECORDS: dict[str, str] = {
    # Detectron2's list of the environment looks for a compiler of CUDA.
    "torch.utils.cpp_extension": "No CUDA runtime is found",
    # Detectron2 asks whether it is being traced.
    "torch.fx._symbolic_trace": "is_fx_tracing will return true",
}


def silence_imports() -> None:
    """Silence the messages above in this process; before Detectron2 is imported."""
    for message, category in _WARNINGS:
        warnings.filterwarnings("ignore", message, category, append=True)
    for name, message in _RECORDS.items():
        logging.getLogger(name).addFilter(partial(_is_other, message))


def _is_other(message: str, record: logging.LogRecord) -> bool:
    return message not in record.getMessage()
