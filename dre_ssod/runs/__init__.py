"""What a run leaves in its folder for people and other programs, and how that is read again.

``record`` keeps how it was started, ``sets`` what its data sets hold, ``results`` what came out;
``history`` reads the series of ``metrics.json``.

This room may use everything below training. It does not measure and decides nothing; checkpoints
are the matter of :mod:`dre_ssod.checkpoints`.
"""
