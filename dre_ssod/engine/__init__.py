"""Training: one step, the loop around it, and how a run is set up.

``setup`` turns a command line into a checked config, ``training_data`` that into images and a
loader, ``trainer`` assembles the run, after what ``stages`` must make first. ``step`` is one
iteration, in the order of figure 2, with ``precision``, ``ema``, ``metrics`` (its one exchange
between processes), ``nonfinite`` with ``running_statistics``, and ``unreadable`` beside it;
``out_of_memory`` is what to say where one does not fit. What happens around a step is in ``hooks``.

This room may use every floor below. What a method does differently is asked of the method
(:mod:`dre_ssod.methods`) and never decided here.
"""
