"""The families that are known, and which of them a state dict is."""
from typing import Dict, List, Mapping, Tuple

from torch import Tensor

from . import swin
from .family import CheckpointError, Family

FAMILIES: List[Family] = [swin.FAMILY]

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


def to_our_names(state_dict: Mapping[str, Tensor],
                 family: Family) -> Tuple[Dict[str, Tensor], List[str], List[str]]:
    """Return ``state_dict`` under our module names, what was renamed and what was dropped."""
    names = family.names(state_dict)
    weights = {name: state_dict[key] for key, name in names.items() if name is not None}
    moved = [key for key, name in names.items() if name not in (None, key)]
    return weights, moved, [key for key, name in names.items() if name is None]
