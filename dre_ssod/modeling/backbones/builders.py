"""What a config names as MODEL.BACKBONE.NAME. timm is imported when such a backbone is built."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from dre_ssod.errors import ConfigError


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The timm model of ``cfg.MODEL.TIMM``; errors as ``TimmBackbone``."""
    from dre_ssod.modeling.backbones.timm_backbone import TimmBackbone

    return TimmBackbone(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's FPN ("p2" ... "p6") on the timm model of ``cfg.MODEL.TIMM``.

    Raises:
        ConfigError: ``MODEL.FPN.IN_FEATURES`` is not a gapless run of the model's maps up to res5.
    """
    bottom_up = build_timm_backbone(cfg, input_shape)
    in_features = list(cfg.MODEL.FPN.IN_FEATURES)
    names = list(bottom_up.output_shape())
    # LastLevelMaxPool makes p6 from p5.
    if not in_features or names[-1] != "res5" or names[-len(in_features) :] != in_features:
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES is {in_features}; it must name the last few of the maps that "
            f"MODEL.TIMM.OUT_INDICES {tuple(cfg.MODEL.TIMM.OUT_INDICES)} gives, here {names}, "
            "up to and with res5"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
