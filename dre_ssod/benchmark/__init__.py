"""Speed and memory against the work that cannot be avoided, for ``tools/benchmark.py``.

One file per question (``loader``, ``step``, ``formats``, ``ema``, ``evaluation``, ``inference``);
``timing``, ``memory`` and ``report`` measure and print, ``boxes`` makes up what is measured on.

This room may use every floor, and nothing may use it: what it needs to know of a part, it asks of
that part as a user would.
"""
