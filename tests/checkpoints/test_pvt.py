import pytest
import torch

from slab_det.checkpoints import convert_state_dict
from slab_det.checkpoints.pvt import FAMILY
from slab_det.models import PyramidVisionTransformer
from tests.networks import settle

SMALL = dict(
    embed_dims=(8, 16),
    depths=(1, 2),
    num_heads=(1, 2),
    mlp_ratios=(2, 3),
    img_size=64,
    num_classes=5,
)


@pytest.mark.parametrize(
    'arguments',
    [
        dict(SMALL, attn_types='LS', sr_ratios=(2, 4)),
        dict(
            SMALL,
            attn_types='LL',
            sr_ratios=(1, 2),
            norm_layer='RepBN',
            qkv_bias=False,
            in_chans=1,
            num_heads=(2, 4),
            num_classes=0,
        ),
    ],
)
def test_constructor_arguments_are_found_from_shapes(arguments):
    found = FAMILY.arguments(PyramidVisionTransformer(**arguments).state_dict())
    assert {name: found[name] for name in arguments} == arguments


def official_names(model):
    """A state dict of ours under the official names."""
    official = {}
    for key, value in model.state_dict().items():
        top, _, rest = key.partition('.')
        if top == 'layers':
            stage, what, rest = (
                rest.split('.', 2) if rest.count('.') > 1 else (*rest.split('.'), '')
            )
            name = {
                'blocks': 'block',
                'downsample': 'patch_embed',
                'absolute_pos_embed': 'pos_embed',
            }[what]
            key = f'{name}{int(stage) + 1}' + ('.' + rest if rest else '')
        elif top == 'patch_embed':
            key = f'patch_embed1.{rest}'
        official[key.replace('head.fc.', 'head.')] = value
    return official


def test_official_class_token_and_closing_norm_are_left_out():
    torch.manual_seed(0)
    source = settle(PyramidVisionTransformer(attn_types='SS', norm_layer='LN', **SMALL))
    official = official_names(source)
    tokens = official['pos_embed2'].shape[1]
    official['pos_embed2'] = torch.cat([torch.randn(1, 1, 16), official['pos_embed2']], 1)
    official['cls_token'] = torch.randn(1, 1, 16)
    official.update({'norm.weight': torch.randn(16), 'norm.bias': torch.randn(16)})
    model = PyramidVisionTransformer(attn_types='SS', **SMALL).eval()
    weights, report = convert_state_dict(official, model.state_dict())
    model.load_state_dict(weights)
    assert sorted(report.ignored) == ['cls_token', 'norm.bias', 'norm.weight'] and report.ratio == 1
    assert weights['layers.1.absolute_pos_embed'].shape[1] == tokens
    x = torch.randn(1, 3, 70, 90)
    torch.testing.assert_close(model(x), source(x))


def test_output_norms_of_a_detector_are_not_taken_for_closing_norms_of_stages():
    model = PyramidVisionTransformer(attn_types='SS', **SMALL)
    weights = {**model.state_dict(), 'norm1.weight': torch.ones(16)}
    assert FAMILY.translate(weights)['norm1.weight'].keys() == {'norm1.weight'}
    assert FAMILY.translate({'block1.0.attn.q.weight': 0, 'norm1.weight': 0})[
        'norm1.weight'
    ].keys() == {'layers.0.norm.weight'}
