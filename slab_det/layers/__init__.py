"""Norms, linear attention, windows and patches: torch and timm only."""
from .attention import (WindowLinearAttention, WindowSoftmaxAttention,
                        simplified_linear_attention)
from .batch_norm import TokenBatchNorm
from .build import NORMS, make_norm_layer
from .folding import fold_norm_after_conv, fold_norm_into_linear
from .norms import (ChannelAffine, PRepBN, RepBN, channel_affine, foldable_affine,
                    prepbn_modules, set_ratio)
from .patches import PatchEmbed, PatchMerging
from .windows import (WindowLayout, effective_shift, shift_mask, window_layout, window_merge,
                      window_partition)

__all__ = [
    'ChannelAffine', 'NORMS', 'PRepBN', 'PatchEmbed', 'PatchMerging', 'RepBN', 'TokenBatchNorm',
    'WindowLayout', 'WindowLinearAttention', 'WindowSoftmaxAttention', 'channel_affine',
    'effective_shift', 'fold_norm_after_conv', 'fold_norm_into_linear', 'foldable_affine',
    'make_norm_layer', 'prepbn_modules', 'set_ratio', 'shift_mask',
    'simplified_linear_attention', 'window_layout', 'window_merge', 'window_partition'
]
