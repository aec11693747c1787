"""Which images of the labeled sets keep their labels.

``split`` has the draw, ``files`` the choices of others, ``pools`` what training gets: labeled
records, and unlabeled ones that hold no label any more.

This room reads records through ``sources`` and opens no image. Draws must never change: their
hashes are pinned by tests.
"""
