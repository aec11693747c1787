"""The detector. Importing this package registers its parts with Detectron2."""

from dre_ssod.modeling import backbone, rcnn, roi_heads, rpn

__all__ = ["backbone", "rcnn", "roi_heads", "rpn"]
