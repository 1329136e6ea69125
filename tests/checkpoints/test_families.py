import pytest
import torch

from slab_det.checkpoints import FAMILIES, CheckpointError, detect_family, to_our_names
from slab_det.checkpoints.swin import FAMILY as SWIN
from tests import golden

FILES = {
    'slab_swin_t': 'swin',
    'swin_t_prepbn': 'swin',
    'det_slab_swin_t': 'swin',
    'slab_pvt_t': 'pvt',
    'pvt_t_prepbn': 'pvt',
    'slab_pvt_v2_b0': 'pvt_v2',
    'slab_deit_t': 'deit',
    'deit_s_prepbn': 'deit',
    'slab_cswin_t': 'cswin',
}


@pytest.mark.parametrize('file, name', FILES.items())
def test_published_checkpoints_are_recognised_by_exactly_one_family(file, name):
    weights = golden.published_state_dict(golden.load(file))
    assert [family.name for family in FAMILIES if family.matches(weights)] == [name]
    assert detect_family(weights).name == name


@pytest.mark.parametrize('file', FILES)
def test_our_names_are_a_fixed_point(file):
    weights = golden.published_state_dict(golden.load(file))
    family = detect_family(weights)
    ours, moved, dropped = to_our_names(weights, family)
    assert detect_family(ours) is family
    again, moved, dropped = to_our_names(ours, family)
    assert again.keys() == ours.keys() and not moved and not dropped


@pytest.mark.parametrize(
    'keys, message',
    [
        (['layer1.0.conv1.weight', 'fc.weight'], 'is a ResNet, which no model here takes'),
        (
            ['backbone.conv.weight', 'neck.a'],
            "begin with 'backbone', 'neck'.*pass prefix='backbone.'",
        ),
        (['encoder.x'], "of no known family, its entries begin with 'encoder'.$"),
    ],
)
def test_other_networks_are_named(keys, message):
    with pytest.raises(CheckpointError, match=message):
        detect_family({key: torch.zeros(1) for key in keys})


def test_a_mixture_of_namings_is_refused():
    weights = {
        'stages.0.blocks.0.attn.w_msa.qkv.weight': torch.zeros(3, 1),
        'layers.0.blocks.0.attn.qkv.weight': torch.zeros(3, 1),
    }
    with pytest.raises(
        CheckpointError, match='mixes two namings: layers.0.blocks.0.attn.qkv.weight'
    ):
        to_our_names(weights, SWIN)
