"""timm models as backbones, and where their weights come from.

This room knows nothing of detection but the feature maps that a pyramid is built on.
"""
