"""Images in tar files, in WebDataset's convention: ``shards://``.

``patterns`` finds the shards, ``scanning`` reads the headers of one, ``index`` keeps what was found
in a file that processes share, ``records`` is the set as a sequence that makes each record when it
is asked for, ``labels`` reads the JSON beside an image, and ``source`` puts them together.

Nothing here shuffles: an image is known by its number, and read from where it lies.
"""

from dre_ssod.data.sources.shards.records import ShardRecords
from dre_ssod.data.sources.shards.source import ShardSource

__all__ = ["ShardRecords", "ShardSource"]
