"""Names of DeiT checkpoints: ours are the published, official and timm ones."""

from math import isqrt
from typing import Any

import torch
from torch import Tensor

from slab_det.layers.positions import is_square

from .family import CheckpointError, Family, Weights, count_children, norm_type

_LINEAR = 'blocks.0.attn.positional_encoding'


def _matches(state_dict: Weights) -> bool:
    return 'blocks.0.attn.qkv.weight' in state_dict and 'pos_embed' in state_dict


def _translate(state_dict: Weights) -> dict[str, dict[str, Tensor]]:
    """Drop the class token of the linear variant, which does not use it; in the other variant,
    add its position to it."""
    if 'dist_token' in state_dict:
        raise CheckpointError(
            'the checkpoint is a distilled DeiT with two class tokens, which no '
            'model here takes; use the one trained without distillation.'
        )
    entries = {key: {key: value} for key, value in state_dict.items()}
    if _LINEAR in state_dict:
        entries.update({key: {} for key in state_dict if key == 'cls_token'})
        return entries
    positions, token = state_dict['pos_embed'], state_dict.get('cls_token')
    if token is not None and is_square(positions.shape[1] - 1):
        entries['cls_token'] = {'cls_token': token + positions[:, :1]}
        entries['pos_embed'] = {'pos_embed': positions[:, 1:]}
    return entries


def _arguments(state_dict: Weights) -> dict[str, Any]:
    patch = state_dict['patch_embed.proj.weight']
    linear = _LINEAR in state_dict
    embed_dim = patch.shape[0]
    # Softmax attention does not show its heads in shapes; all DeiT have heads of 64 channels.
    head_dim = state_dict['blocks.0.attn.dwc.weight'].shape[0] if linear else 64
    return dict(
        embed_dim=embed_dim,
        depth=count_children(state_dict, 'blocks.'),
        num_heads=embed_dim // head_dim,
        attn_types='L' if linear else 'S',
        norm_layer=norm_type(state_dict),
        mlp_ratio=state_dict['blocks.0.mlp.fc1.weight'].shape[0] / embed_dim,
        qkv_bias='blocks.0.attn.qkv.bias' in state_dict,
        img_size=isqrt(state_dict['pos_embed'].shape[1]) * patch.shape[2],
        patch_size=patch.shape[2],
        in_chans=patch.shape[1],
        num_classes=len(state_dict.get('head.bias', torch.empty(0))),
    )


FAMILY = Family(
    'deit',
    'DeiT vision transformer',
    'VisionTransformer',
    _matches,
    _translate,
    _arguments,
    grids=(('pos_embed', 'bicubic'), ('positional_encoding', 'bilinear')),
    stages='blocks.',
    shown=('embed_dim', 'depth', 'attn_types'),
)
