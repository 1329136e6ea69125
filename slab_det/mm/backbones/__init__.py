"""SLAB transformers in mmdet's registry."""

from . import registration  # noqa: F401
from .base import SLABBackbone
from .cswin import SLABCSWinTransformer
from .deit import SLABVisionTransformer
from .pvt import SLABPyramidVisionTransformer
from .pvt_v2 import SLABPyramidVisionTransformerV2
from .swin import SLABSwinTransformer

__all__ = [
    'SLABBackbone',
    'SLABCSWinTransformer',
    'SLABPyramidVisionTransformer',
    'SLABPyramidVisionTransformerV2',
    'SLABSwinTransformer',
    'SLABVisionTransformer',
]
