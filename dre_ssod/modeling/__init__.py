"""The detector. Importing this package registers its parts with Detectron2."""

from dre_ssod.modeling import rcnn, roi_heads, rpn
from dre_ssod.modeling.backbones import timm_backbone

__all__ = ["rcnn", "roi_heads", "rpn", "timm_backbone"]
