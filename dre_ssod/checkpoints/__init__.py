"""Checkpoint files: written, found, checked and read without running anything in them.

``checkpointer`` is Detectron2's, made safe; ``folder`` knows the files of a run's folder, which one
the run continues from and which ones may go; ``reading`` reads pickles of arrays.

This room may use the errors and the writer of files. It knows neither models nor the loop: what is
saved comes as objects with a state, and when is decided by :mod:`dre_ssod.engine.hooks`.
"""
