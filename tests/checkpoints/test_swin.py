import pytest
import timm
import torch

from slab_det.checkpoints import convert_state_dict
from slab_det.checkpoints.swin import FAMILY
from slab_det.layers import set_ratio
from slab_det.models import SwinTransformer
from tests.networks import randomize, settle

SMALL = dict(embed_dim=24, depths=(2, 2, 1, 2), num_heads=(1, 2, 4, 8))


@pytest.mark.parametrize(
    'arguments',
    [
        dict(
            embed_dim=8,
            depths=(1, 2),
            num_heads=(2, 4),
            attn_types='LS',
            window_sizes=(6, 5),
            num_classes=3,
        ),
        dict(
            embed_dim=16,
            depths=(2, 1, 1),
            num_heads=(1, 2, 4),
            attn_types='SLS',
            window_sizes=(7, 14, 4),
            norm_layer='RepBN',
            qkv_bias=False,
            mlp_ratio=2.0,
            in_chans=1,
            patch_size=2,
            num_classes=0,
        ),
    ],
)
def test_constructor_arguments_are_found_from_shapes(arguments):
    found = FAMILY.arguments(SwinTransformer(**arguments).state_dict())
    assert {name: found[name] for name in arguments} == arguments


def test_timms_swin_has_the_same_features_at_ratio_1():
    # Every map is larger than a window on both axes: timm does not shift along an axis that fits.
    torch.manual_seed(0)
    source = randomize(timm.create_model('swin_tiny_patch4_window7_224', img_size=448, **SMALL))
    model = SwinTransformer(attn_types='SSSS', drop_path_rate=0.0, **SMALL).eval()
    weights, report = convert_state_dict(source.state_dict(), model.state_dict())
    model.load_state_dict(weights)
    assert report.ratio == 1 and not report.ignored
    x = torch.randn(1, 3, 448, 448)
    with torch.no_grad():
        expected = source.forward_intermediates(x, intermediates_only=True)
        for out, same in zip(model.forward_intermediates(x, intermediates_only=True), expected):
            assert (out - same).abs().max() < 1e-5 * same.std()
        torch.testing.assert_close(model(x), source(x), rtol=1e-4, atol=1e-4)


def test_official_names_close_a_stage_with_the_patch_merging():
    torch.manual_seed(0)
    model = settle(SwinTransformer(8, (1, 1, 1), (1, 1, 1), 'SSS', norm_layer='LN'))
    official = {}
    for key, value in model.state_dict().items():
        for stage in (1, 2):
            key = key.replace(f'layers.{stage}.downsample', f'layers.{stage - 1}.downsample')
        official[key.replace('head.fc.', 'head.')] = value
    official['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(49, 49).long()
    official['layers.0.blocks.0.attn_mask'] = torch.zeros(64, 49, 49)
    target = SwinTransformer(8, (1, 1, 1), (1, 1, 1), 'SSS')
    weights, report = convert_state_dict(official, target.state_dict())
    target.load_state_dict(weights)
    assert report.ignored == [
        'layers.0.blocks.0.attn.relative_position_index',
        'layers.0.blocks.0.attn_mask',
    ]
    assert report.ratio == 1 and set_ratio(target, 1)
    x = torch.randn(1, 3, 60, 60)
    torch.testing.assert_close(target.eval()(x), model(x))
