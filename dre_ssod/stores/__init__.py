"""Object stores, web servers and archives: whatever has an address that fsspec opens.

``objects`` asks a store and says what is missing, ``cache`` keeps copies of what was read,
``places`` has paths into stores beside those of this machine, ``pieces`` reads members of tar files
where they lie, ``handler`` enters all of it with Detectron2's ``PathManager`` when this room is
imported, ``delivery`` puts finished results there. What a store needs besides fsspec (s3fs, gcsfs,
adlfs, aiohttp) is imported when its first address is used.

This room may use the errors, the writer of files and the locks. It knows nothing of datasets.
"""

from dre_ssod.stores.cache import Cache, local_copy, open_copy
from dre_ssod.stores.delivery import (
    Rule,
    Written,
    any_file,
    any_folder,
    delivered_file,
    delivered_folder,
    folder_without,
    new_folder,
)
from dre_ssod.stores.handler import weights_file
from dre_ssod.stores.objects import CHAIN, StoreError, describe, is_address, read_range
from dre_ssod.stores.pieces import Piece, is_piece
from dre_ssod.stores.places import Place, StorePath, is_taken, place_of

__all__ = [
    "CHAIN",
    "Cache",
    "Piece",
    "Place",
    "Rule",
    "StoreError",
    "StorePath",
    "Written",
    "any_file",
    "any_folder",
    "delivered_file",
    "delivered_folder",
    "describe",
    "folder_without",
    "is_address",
    "is_piece",
    "is_taken",
    "local_copy",
    "new_folder",
    "open_copy",
    "place_of",
    "read_range",
    "weights_file",
]
