"""Names of Swin checkpoints: ours (which are timm's), the published and official ones, mmdet's."""

import re
from typing import Any

import torch
from torch import Tensor

from .family import Family, Weights, count_children, norm_type


def _matches(state_dict: Weights) -> bool:
    return (
        'layers.0.blocks.0.attn.qkv.weight' in state_dict
        or 'stages.0.blocks.0.attn.w_msa.qkv.weight' in state_dict
    )


def _translate(state_dict: Weights) -> dict[str, dict[str, Tensor]]:
    if any(key.startswith('stages.') for key in state_dict):
        names = {key: _mmdet_name(key) for key in state_dict}
        values = {key: _mmdet_value(key, value) for key, value in state_dict.items()}
    else:
        last = count_children(state_dict, 'layers.') - 1
        ours = any(key.startswith((f'layers.{last}.downsample.', 'head.fc.')) for key in state_dict)
        # Of a single stage both are the same.
        names = {key: _our_name(key) if ours else _published_name(key) for key in state_dict}
        values = state_dict
    return {key: {} if name is None else {name: values[key]} for key, name in names.items()}


def _our_name(key: str) -> str | None:
    return None if key.endswith(('.attn_mask', '.relative_position_index')) else key


def _published_name(key: str) -> str | None:
    """Published patch merging closes a stage, ours opens the next; the head is timm's."""
    if key in ('head.weight', 'head.bias'):
        return key.replace('head.', 'head.fc.')
    return _our_name(_open_next_stage(key))


def _mmdet_name(key: str) -> str | None:
    key = re.sub(r'^stages\.', 'layers.', key)
    key = _open_next_stage(key.replace('.w_msa.', '.').replace('.projection.', '.proj.'))
    key = key.replace('.ffn.layers.0.0.', '.mlp.fc1.').replace('.ffn.layers.1.', '.mlp.fc2.')
    return _our_name(key)


def _open_next_stage(key: str) -> str:
    return re.sub(
        r'^layers\.(\d+)\.downsample\.',
        lambda match: f'layers.{int(match.group(1)) + 1}.downsample.',
        key,
    )


def _mmdet_value(key: str, value: Tensor) -> Tensor:
    """mmdet's patch merging lists a channel's four tokens row by row; ours lists all channels of
    each token, tokens column by column."""
    if not re.search(r'\.downsample\.(norm\.(weight|bias)|reduction\.weight)$', key):
        return value
    by_token = value.unflatten(-1, (-1, 2, 2)).transpose(-1, -2).flatten(-2)
    return by_token.transpose(-1, -2).flatten(-2)


def _arguments(state_dict: Weights) -> dict[str, Any]:
    stages = range(count_children(state_dict, 'layers.'))
    attn = [f'layers.{i}.blocks.0.attn.' for i in stages]
    tables = [state_dict.get(f'{a}relative_position_bias_table') for a in attn]
    patch = state_dict['patch_embed.proj.weight']
    return dict(
        embed_dim=patch.shape[0],
        depths=tuple(count_children(state_dict, f'layers.{i}.blocks.') for i in stages),
        num_heads=tuple(
            state_dict[f'{a}proj.weight'].shape[0] // state_dict[f'{a}dwc.weight'].shape[0]
            if table is None
            else table.shape[1]
            for a, table in zip(attn, tables)
        ),
        attn_types=''.join('L' if table is None else 'S' for table in tables),
        # A table holds (2 w - 1)^2 offsets of a window, an encoding its w^2 tokens.
        window_sizes=tuple(
            round(state_dict[f'{a}positional_encoding'].shape[1] ** 0.5)
            if table is None
            else (round(table.shape[0] ** 0.5) + 1) // 2
            for a, table in zip(attn, tables)
        ),
        norm_layer=norm_type(state_dict),
        patch_size=patch.shape[2],
        in_chans=patch.shape[1],
        mlp_ratio=state_dict['layers.0.blocks.0.mlp.fc1.weight'].shape[0] / patch.shape[0],
        qkv_bias='layers.0.blocks.0.attn.qkv.bias' in state_dict,
        num_classes=len(state_dict.get('head.fc.bias', torch.empty(0))),
    )


FAMILY = Family(
    'swin',
    'Swin Transformer',
    'SwinTransformer',
    _matches,
    _translate,
    _arguments,
    grids=(('positional_encoding', 'bilinear'), ('relative_position_bias_table', 'bicubic')),
)
