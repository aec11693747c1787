"""Semi-supervised object detection by dynamic reweighting of localization error, on Detectron2.

Importing this package registers the detector's parts with Detectron2.
"""

from typing import TYPE_CHECKING, Any

from dre_ssod.quiet import silence_imports
from dre_ssod.starting import collector_resting, compiler_later

silence_imports()

with collector_resting():
    with compiler_later():
        import torchvision  # noqa: F401

    from dre_ssod import modeling
    from dre_ssod.config.keys import add_ssod_config, get_cfg

__version__ = "0.2.0"
__all__ = ["__version__", "add_ssod_config", "get_cfg", "load", "modeling"]

if TYPE_CHECKING:
    from dre_ssod.deployment.detector import load


def __getattr__(name: str) -> Any:
    """Imports what only the use of a trained model needs when it is asked for."""
    if name == "load":
        from dre_ssod.deployment.detector import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
