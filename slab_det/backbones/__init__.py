"""SLAB transformers in mmdet's registry."""
from ..compat import require_detection

require_detection('slab_det.backbones')

from . import registration  # noqa: E402, F401
from .base import SLABBackbone  # noqa: E402
from .cswin import SLABCSWinTransformer  # noqa: E402
from .deit import SLABVisionTransformer  # noqa: E402
from .pvt import SLABPyramidVisionTransformer  # noqa: E402
from .pvt_v2 import SLABPyramidVisionTransformerV2  # noqa: E402
from .swin import SLABSwinTransformer  # noqa: E402

__all__ = [
    'SLABBackbone', 'SLABCSWinTransformer', 'SLABPyramidVisionTransformer',
    'SLABPyramidVisionTransformerV2', 'SLABSwinTransformer', 'SLABVisionTransformer'
]
