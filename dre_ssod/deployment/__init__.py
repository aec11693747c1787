"""Use of a trained detector: on pictures and videos, on any number of images, in other programs.

``trained_model`` loads it and makes its inputs; ``demo`` looks at files; ``labeling`` labels
folders in chunks; ``export`` writes TorchScript and bare weights, ``onnx_export`` ONNX.

This room may use everything but training (:mod:`dre_ssod.engine`), which it neither needs nor
changes.
"""
