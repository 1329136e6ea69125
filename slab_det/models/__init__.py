"""Vision transformers with SLAB's norm and attention, registered with timm."""
from .features import FeatureStages
from .swin import SwinTransformer

__all__ = ['FeatureStages', 'SwinTransformer']
