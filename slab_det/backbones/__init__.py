"""SLAB transformers in mmdet's registry."""
from . import registration  # noqa: F401
from .base import SLABBackbone
from .cswin import SLABCSWinTransformer
from .deit import SLABVisionTransformer
from .swin import SLABSwinTransformer

__all__ = [
    'SLABBackbone', 'SLABCSWinTransformer', 'SLABSwinTransformer', 'SLABVisionTransformer'
]
