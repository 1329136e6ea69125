"""Vision transformers with SLAB's norm and attention, registered with timm."""
from .cswin import CSWinTransformer
from .deit import VisionTransformer
from .features import FeatureStages
from .swin import SwinTransformer

__all__ = ['CSWinTransformer', 'FeatureStages', 'SwinTransformer', 'VisionTransformer']
