"""The configuration: its keys, how a file is read, and which values are refused.

``keys`` explains every key, on the ground. ``values`` says what a key may hold at all, ``reading``
turns files and ``KEY VALUE`` pairs into a config. ``checks`` stands above the parts that it asks
(what is registered, which protocols there are), and holds the one table of bounds: they are stated
there and nowhere else, so whoever builds a part by hand is trusted with its values.
"""

from dre_ssod.config.keys import add_ssod_config, get_cfg

__all__ = ["add_ssod_config", "get_cfg"]
