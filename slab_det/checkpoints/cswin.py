"""Names of CSWin checkpoints: ours, and the published and official ones."""

import re
from typing import Any

import torch
from torch import Tensor

from .family import Family, Weights, count_children, norm_type

_EMBED = {'stage1_conv_embed.0.': 'patch_embed.proj.', 'stage1_conv_embed.2.': 'patch_embed.norm.'}


def _matches(state_dict: Weights) -> bool:
    return (
        'layers.0.blocks.0.attns.0.get_v.weight' in state_dict
        or 'stage1.0.attns.0.get_v.weight' in state_dict
    )


def _translate(state_dict: Weights) -> dict[str, dict[str, Tensor]]:
    published = any(key.startswith('stage1.') for key in state_dict)
    names = {key: _published_name(key) if published else key for key in state_dict}
    return {key: {} if name is None else {name: state_dict[key]} for key, name in names.items()}


def _published_name(key: str) -> str | None:
    """Stages count from 1, and the convolution after stage n opens our stage n + 1."""
    if re.search(r'\.attns\.\d+\.scale$', key):
        return None  # a parameter that the published linear attention does not use
    for old, new in _EMBED.items():
        if key.startswith(old):
            return new + key[len(old) :]
    match = re.match(r'stage(\d+)\.(.*)', key)
    if match:
        return f'layers.{int(match.group(1)) - 1}.blocks.{match.group(2)}'
    match = re.match(r'merge(\d+)\.(.*)', key)
    if match:
        return f'layers.{match.group(1)}.downsample.{re.sub("^conv[.]", "proj.", match.group(2))}'
    return re.sub(r'^head\.(weight|bias)$', r'head.fc.\1', key)


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
    for i, kind in enumerate(kinds):
        if kind == 'L':
            grid = state_dict[f'layers.{i}.blocks.0.attns.0.positional_encoding']
            arguments['img_size'] = round(grid.shape[1] ** 0.5) * 2 ** (i + 2)
            break
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
