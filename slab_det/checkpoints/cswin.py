"""Names of CSWin checkpoints: ours, and the published and official ones."""

import re
from typing import Any

import torch
from torch import Tensor

from .family import Family, Weights, count_children, norm_type, numbered, renamed

#: Stages count from 1, and the convolution after stage n opens our stage n + 1.
_PUBLISHED = (
    (r'stage1_conv_embed\.0\.', 'patch_embed.proj.'),
    (r'stage1_conv_embed\.2\.', 'patch_embed.norm.'),
    (r'stage(\d+)\.', numbered('layers.{}.blocks.')),
    (r'merge(\d+)\.conv\.', r'layers.\1.downsample.proj.'),
    (r'merge(\d+)\.', r'layers.\1.downsample.'),
    (r'head\.(weight|bias)$', r'head.fc.\1'),
)
#: A parameter that the published linear attention does not use.
_UNUSED = re.compile(r'\.attns\.\d+\.scale$')


def _matches(state_dict: Weights) -> bool:
    return (
        'layers.0.blocks.0.attns.0.get_v.weight' in state_dict
        or 'stage1.0.attns.0.get_v.weight' in state_dict
    )


def _translate(state_dict: Weights) -> dict[str, dict[str, Tensor]]:
    if not any(key.startswith('stage1.') for key in state_dict):
        return {key: {key: value} for key, value in state_dict.items()}
    return {
        key: {} if _UNUSED.search(key) else {renamed(key, _PUBLISHED): value}
        for key, value in state_dict.items()
    }


def _arguments(state_dict: Weights) -> dict[str, Any]:
    stages = range(count_children(state_dict, 'layers.'))
    kinds = [
        'L' if f'layers.{i}.blocks.0.attns.0.dwc.weight' in state_dict else 'S' for i in stages
    ]
    dims = [state_dict[f'layers.{i}.blocks.0.proj.weight'].shape[0] for i in stages]
    arguments = dict(
        embed_dim=dims[0],
        depths=tuple(count_children(state_dict, f'layers.{i}.blocks.') for i in stages),
        # Softmax attention does not show its heads in shapes; all CSWin here have heads of 32.
        num_heads=tuple(
            dim
            // (
                state_dict[f'layers.{i}.blocks.0.attns.0.dwc.weight'].shape[0]
                if kinds[i] == 'L'
                else 32
            )
            for i, dim in enumerate(dims)
        ),
        attn_types=''.join(kinds),
        norm_layer=norm_type(state_dict),
        mlp_ratio=state_dict['layers.0.blocks.0.mlp.fc1.weight'].shape[0] / dims[0],
        qkv_bias='layers.0.blocks.0.qkv.bias' in state_dict,
        in_chans=state_dict['patch_embed.proj.weight'].shape[1],
        num_classes=len(state_dict.get('head.fc.bias', torch.empty(0))),
    )
    if 'L' in kinds:
        i = kinds.index('L')
        grid = state_dict[f'layers.{i}.blocks.0.attns.0.positional_encoding']
        arguments['img_size'] = round(grid.shape[1] ** 0.5) * 2 ** (i + 2)
    return arguments


FAMILY = Family(
    'cswin',
    'CSWin Transformer',
    'CSWinTransformer',
    _matches,
    _translate,
    _arguments,
    grids=(('positional_encoding', 'bilinear'),),
)
