"""Names of Swin checkpoints."""
import re
from typing import Dict, Mapping, Optional

from torch import Tensor

from .family import Family, count_children


def _matches(state_dict: Mapping[str, Tensor]) -> bool:
    return 'layers.0.blocks.0.attn.qkv.weight' in state_dict


def _names(state_dict: Mapping[str, Tensor]) -> Dict[str, Optional[str]]:
    last = count_children(state_dict, 'layers.') - 1
    ours = any(key.startswith((f'layers.{last}.downsample.', 'head.fc.')) for key in state_dict)
    return {key: key if ours else _published_name(key) for key in state_dict}


def _published_name(key: str) -> Optional[str]:
    """Published patch merging closes a stage, ours opens the next; the head is timm's."""
    if key.endswith(('.attn_mask', '.relative_position_index')):
        return None
    if key in ('head.weight', 'head.bias'):
        return key.replace('head.', 'head.fc.')
    match = re.match(r'layers\.(\d+)\.downsample\.(.*)', key)
    if match:
        return f'layers.{int(match.group(1)) + 1}.downsample.{match.group(2)}'
    return key


def _describe(state_dict: Mapping[str, Tensor]) -> str:
    depths = tuple(
        count_children(state_dict, f'layers.{i}.blocks.')
        for i in range(count_children(state_dict, 'layers.')))
    kinds = ''.join(
        'L' if f'layers.{i}.blocks.0.attn.positional_encoding' in state_dict else 'S'
        for i in range(len(depths)))
    embed_dim = state_dict['patch_embed.proj.weight'].shape[0]
    return f'Swin with embed_dim {embed_dim}, depths {depths} and attn_types {kinds!r}'


FAMILY = Family('swin', _matches, _names, _describe)
