"""Norms, linear attention, windows and patches: torch and timm only."""

from importlib import import_module
from typing import Any

from .attention import (
    LinearMixing,
    QKVProjection,
    WindowLinearAttention,
    WindowSoftmaxAttention,
    simplified_linear_attention,
)
from .batch_norm import TokenBatchNorm
from .build import NORMS, layer_norm_eps, make_norm_layer
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
from .patches import PatchEmbed, PatchMerging, TokenMap
from .positions import GridCache, resize_grid, square_grid
from .pyramid import (
    ConvMerging,
    ConvPatchEmbed,
    DepthwiseMlp,
    ReducedLinearAttention,
    ReducedSoftmaxAttention,
)
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
    'ConvMerging',
    'ConvPatchEmbed',
    'DepthwiseMlp',
    'FoldedNorm',
    'GridCache',
    'LinearMixing',
    'NORMS',
    'PRepBN',
    'PRepBNScheduler',
    'PatchEmbed',
    'PatchMerging',
    'QKVProjection',
    'ReducedLinearAttention',
    'ReducedSoftmaxAttention',
    'RepBN',
    'TokenBatchNorm',
    'TokenMap',
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
    'prepbn_modules',
    'resize_grid',
    'scheduled_ratio',
    'set_ratio',
    'set_valid_tokens',
    'shift_mask',
    'simplified_linear_attention',
    'square_grid',
    'valid_tokens',
    'window_layout',
    'window_merge',
    'window_partition',
]

#: Names of version 0.1 that are about execution, which is a matter of :mod:`slab_det.deploy`.
_MOVED = ('maps_in_chunks', 'residual_in_chunks', 'runs_in_chunks', 'window_chunks')


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return getattr(import_module('slab_det.deploy.twins.chunks'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
