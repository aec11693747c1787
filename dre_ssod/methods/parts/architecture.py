"""Which detector a method needs."""

from __future__ import annotations

from detectron2.config import CfgNode

from dre_ssod.errors import ConfigError


def require_architecture(cfg: CfgNode, method: str, architecture: str) -> None:
    """Refuse another model than the one that a method needs.

    Args:
        method: its name.
        architecture: the ``MODEL.META_ARCHITECTURE`` that it needs.

    Raises:
        ConfigError: which says what to set.
    """
    if cfg.MODEL.META_ARCHITECTURE != architecture:
        raise ConfigError(
            f"SSOD.METHOD {method!r} does not train a MODEL.META_ARCHITECTURE "
            f"{cfg.MODEL.META_ARCHITECTURE!r}: set it to {architecture!r}, or have "
            f"configs/methods/{method}.yaml among the bases of the config"
        )
