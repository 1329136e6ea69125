"""Vision transformers with SLAB's norm and attention, registered with timm."""

from .base import FeatureStages
from .cswin import CSWinTransformer
from .deit import VisionTransformer
from .pvt import PyramidVisionTransformer
from .pvt_v2 import PyramidVisionTransformerV2
from .swin import SwinTransformer

__all__ = [
    'CSWinTransformer',
    'FeatureStages',
    'PyramidVisionTransformer',
    'PyramidVisionTransformerV2',
    'SwinTransformer',
    'VisionTransformer',
]
