"""The configuration: its keys, how a file is read, and which values are refused.

``keys`` stands on the ground and explains every key. ``reading`` turns files and ``KEY VALUE``
pairs into a config; ``checks`` refuses one that cannot be right, and may look at what is
registered.
"""

from dre_ssod.config.keys import add_ssod_config, get_cfg

__all__ = ["add_ssod_config", "get_cfg"]
