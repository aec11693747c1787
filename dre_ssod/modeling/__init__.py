"""The detector, by Detectron2's registries. Importing this package registers its parts.

The box head predicts a Gaussian per edge (``gaussian``, ``box_predictor``). ``regions`` is all that
a loss may look at; which losses there are a method decides, from above. Nothing here knows data,
teachers or methods.
"""

from dre_ssod.modeling import rcnn, roi_heads, rpn
from dre_ssod.modeling.backbones import builders

__all__ = ["builders", "rcnn", "roi_heads", "rpn"]
