import torch

from slab_det.checkpoints import FAMILIES
from slab_det.checkpoints.family import count_children, norm_type
from slab_det.checkpoints.pvt import FAMILY


def test_children_are_counted_by_their_largest_number():
    assert count_children({'layers.0.a': 0, 'layers.11.b': 0, 'other.99.c': 0}, 'layers.') == 12
    assert count_children({'layers.0.a': 0}, 'stages.') == 0


def test_norm_types():
    block = 'layers.0.blocks.0.'
    assert norm_type({f'{block}norm1.weight': 0}) == 'LN'
    assert norm_type({f'{block}norm1.alpha': 0, f'{block}norm1.bn.weight': 0}) == 'RepBN'
    assert norm_type({f'{block}norm1.norm1.weight': 0, f'{block}norm1.norm2.alpha': 0}) == 'PRepBN'
    assert norm_type({f'{block}norm1.ln.weight': 0, f'{block}norm1.ratio': 0}) == 'PRepBN'


def test_what_a_model_may_have_no_place_for():
    target = {'layers.1.blocks.0.attn.q.weight': torch.zeros(1)}
    spare = ('head.fc.weight', 'norm.weight', 'norm3.bias', 'layers.2.blocks.0.norm1.weight')
    assert all(FAMILY.may_be_ignored(key, target) for key in spare)
    needed = ('layers.1.blocks.0.norm1.weight', 'patch_embed.norm.weight', 'normal.weight')
    assert not any(FAMILY.may_be_ignored(key, target) for key in needed)


def test_families_have_names_of_their_own():
    assert sorted(family.name for family in FAMILIES) == ['cswin', 'deit', 'pvt', 'pvt_v2', 'swin']
