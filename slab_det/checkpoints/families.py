"""Which family a state dict is of, its size, and the names its modules have with us."""
import re
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that does not fit; the message says what it is and what would fit."""


class Family(NamedTuple):
    """A family of transformers.

    Attributes:
        name: as users know it.
        matches: whether a state dict, in any known naming of the family, is of it.
        rename: the name that an entry of the published naming has with us, or None for an
            entry that carries no weights.
        describe: the size in words, from names and shapes in our naming.
    """
    name: str
    matches: Callable[[Mapping[str, Tensor]], bool]
    rename: Callable[[str], Optional[str]]
    describe: Callable[[Mapping[str, Tensor]], str]


def count_children(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """Return 1 + the largest number that follows ``prefix`` in a key."""
    pattern = re.compile(re.escape(prefix) + r'(\d+)\.')
    numbers = [int(match.group(1)) for match in map(pattern.match, state_dict) if match]
    return max(numbers) + 1 if numbers else 0


def _is_swin(state_dict: Mapping[str, Tensor]) -> bool:
    return 'layers.0.blocks.0.attn.qkv.weight' in state_dict


def _rename_swin(key: str) -> Optional[str]:
    """Published patch merging closes a stage, ours opens the next; the head is timm's."""
    if key.endswith(('.attn_mask', '.relative_position_index')):
        return None
    if key in ('head.weight', 'head.bias'):
        return key.replace('head.', 'head.fc.')
    match = re.match(r'layers\.(\d+)\.downsample\.(.*)', key)
    if match:
        return f'layers.{int(match.group(1)) + 1}.downsample.{match.group(2)}'
    return key


def _describe_swin(state_dict: Mapping[str, Tensor]) -> str:
    depths = tuple(
        count_children(state_dict, f'layers.{i}.blocks.')
        for i in range(count_children(state_dict, 'layers.')))
    kinds = ''.join(
        'L' if f'layers.{i}.blocks.0.attn.positional_encoding' in state_dict else 'S'
        for i in range(len(depths)))
    embed_dim = state_dict['patch_embed.proj.weight'].shape[0]
    return f'Swin with embed_dim {embed_dim}, depths {depths} and attn_types {kinds!r}'


#: Published naming of each family. Our own naming of a family is recognised by its names too.
FAMILIES: List[Family] = [Family('swin', _is_swin, _rename_swin, _describe_swin)]

_OTHERS = {
    'stages.0.blocks.0.attn.w_msa.qkv.weight': "mmdet's SwinTransformer",
    'layer1.0.conv1.weight': 'a ResNet',
    'block1.0.attn.q.weight': 'a Pyramid Vision Transformer',
    'blocks.0.attn.qkv.weight': 'a plain vision transformer (DeiT)',
    'stage1.0.qkv.weight': 'a CSWin Transformer',
}


def detect_family(state_dict: Mapping[str, Tensor]) -> Family:
    """Return the family of ``state_dict``.

    Raises:
        CheckpointError: no known family; the message says what the names look like.
    """
    for family in FAMILIES:
        if family.matches(state_dict):
            return family
    for key, name in _OTHERS.items():
        if key in state_dict:
            raise CheckpointError(f'the checkpoint is {name}, which no model here takes.')
    tops = sorted({key.split('.')[0] for key in state_dict})
    hint = ''
    if 'backbone' in tops:
        hint = " It looks like a whole detector: pass prefix='backbone.'."
    raise CheckpointError('the checkpoint is of no known family, its entries begin with '
                          f'{", ".join(map(repr, tops[:12]))}.{hint}')


def is_ours(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the entries already have our names."""
    last = count_children(state_dict, 'layers.') - 1
    ours = f'layers.{last}.downsample.' if last else 'head.fc.'
    return any(key.startswith(ours) for key in state_dict)


def to_our_names(state_dict: Mapping[str, Tensor], family: Family) -> Tuple[Dict[str, Tensor], List[str], List[str]]:
    """Return ``state_dict`` under our module names, what was renamed and what was dropped.

    Norms keep the names of their own entries; see :mod:`slab_det.layers.norm_names`.
    """
    if is_ours(state_dict):
        return dict(state_dict), [], []
    renamed: Dict[str, Tensor] = {}
    moved, dropped = [], []
    for key, value in state_dict.items():
        name = family.rename(key)
        if name is None:
            dropped.append(key)
            continue
        if name != key:
            moved.append(key)
        renamed[name] = value
    return renamed, moved, dropped
