"""What happens around a step, in Detectron2's hooks: evaluations, checkpoints, warnings, panels.

At the end of an iteration they run in this order: the watches (``TwoMeansWatch``,
``PseudoLabelWatch``, ``ClassWatch``), ``PanelHook``, ``SaveBeforeEvaluation``, ``Evaluation``,
``BestModel``, ``LaggingTeacher``, the writers, ``Checkpoints``. A run that dies in an evaluation
therefore resumes with that evaluation, and one that dies later does not repeat it.

A hook may use every floor below ``engine`` and what a step offers (``engine.metrics``), never the
assembly (``engine.trainer``).
"""
