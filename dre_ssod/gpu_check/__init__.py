"""What a CPU cannot show, for ``tools/gpu_check.py``: steps that each answer one question.

``steps`` lists them in their order, ``runner`` gives each a process and a time limit, ``findings``
is their report. Nothing may use this room.
"""
