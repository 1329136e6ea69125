"""SLAB transformers in mmdet's registry."""
from . import registration  # noqa: F401
from .base import SLABBackbone
from .swin import SLABSwinTransformer

__all__ = ['SLABBackbone', 'SLABSwinTransformer']
