"""Where records come from: URIs and names registered with Detectron2.

Each layout (``coco``, ``voc``, ``yolo`` with ``yolo_layout``, ``folder``, those of other programs
in ``programs``, tar files in ``shards``) is a class with ``metadata()``, ``labeled()`` and
``images()``; ``uri`` has the grammar and finds files, ``opening`` chooses among the layouts,
``catalog`` enters them with Detectron2. Nothing outside this room needs to know which layout a set
is in, but that images of shards may be too many to go through.

This room reads annotation files, and of images at most the headers. It decides nothing about
training: it does not draw, shuffle or split.
"""
