"""Norms, linear attention, windows and patches: torch and timm only."""

from .attention import WindowLinearAttention, WindowSoftmaxAttention, simplified_linear_attention
from .batch_norm import TokenBatchNorm
from .build import NORMS, layer_norm_eps, make_norm_layer
from .chunks import maps_in_chunks, residual_in_chunks, runs_in_chunks, window_chunks
from .convert import convert_norms
from .folding import FoldedNorm, fold_norm_after_conv, fold_norm_into_conv, fold_norm_into_linear
from .norm_names import copied_norms
from .norms import (
    ChannelAffine,
    PRepBN,
    RepBN,
    channel_affine,
    foldable_affine,
    prepbn_modules,
    set_ratio,
)
from .padding import ValidTokens, set_valid_tokens, valid_tokens
from .patches import PatchEmbed, PatchMerging
from .positions import resize_grid, square_grid
from .pyramid import ConvPatchEmbed, DepthwiseMlp, ReducedLinearAttention, ReducedSoftmaxAttention
from .ratio_schedule import PRepBNScheduler, scheduled_ratio
from .windows import (
    WindowLayout,
    effective_shift,
    shift_mask,
    window_layout,
    window_merge,
    window_partition,
)

__all__ = [
    'ChannelAffine',
    'ConvPatchEmbed',
    'DepthwiseMlp',
    'FoldedNorm',
    'NORMS',
    'PRepBN',
    'PRepBNScheduler',
    'PatchEmbed',
    'PatchMerging',
    'ReducedLinearAttention',
    'ReducedSoftmaxAttention',
    'RepBN',
    'TokenBatchNorm',
    'ValidTokens',
    'WindowLayout',
    'WindowLinearAttention',
    'WindowSoftmaxAttention',
    'channel_affine',
    'convert_norms',
    'copied_norms',
    'effective_shift',
    'fold_norm_after_conv',
    'fold_norm_into_conv',
    'fold_norm_into_linear',
    'foldable_affine',
    'layer_norm_eps',
    'make_norm_layer',
    'maps_in_chunks',
    'prepbn_modules',
    'residual_in_chunks',
    'resize_grid',
    'runs_in_chunks',
    'scheduled_ratio',
    'set_ratio',
    'set_valid_tokens',
    'shift_mask',
    'simplified_linear_attention',
    'square_grid',
    'valid_tokens',
    'window_chunks',
    'window_layout',
    'window_merge',
    'window_partition',
]
