import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils import reparameterize_model

from slab_det.layers import PRepBN, RepBN, simplified_linear_attention
from slab_det.models import CSWinTransformer
from slab_det.models.cswin import MapLinearAttention, StripeAttention
from tests.networks import settle

SMALL = dict(
    embed_dim=8,
    depths=(1, 2, 1),
    num_heads=(2, 2, 4),
    split_sizes=(2, 3, 3),
    img_size=64,
    num_classes=5,
    drop_path_rate=0.0,
)


@pytest.mark.parametrize('arch, depths', [('tiny', (2, 4, 18, 1)), ('small', (2, 4, 32, 2))])
def test_registered_sizes(arch, depths):
    with torch.device('meta'):
        model = timm.create_model(f'slab_cswin_{arch}')
    assert tuple(len(stage.blocks) for stage in model.layers) == depths
    assert [info['num_chs'] for info in model.feature_info] == [64, 128, 256, 512]
    attns = [stage.blocks[0].attns for stage in model.layers]
    assert [[type(a) for a in stage] for stage in attns] == [
        [MapLinearAttention],
        [MapLinearAttention],
        [StripeAttention] * 2,
        [StripeAttention],
    ]
    assert [a.positional_encoding.shape[1] for (a,) in attns[:2]] == [56 * 56, 28 * 28]
    assert [a[0].stripe for a in attns[2:]] == [7, None]
    assert [a[0].num_heads for a in attns] == [2, 4, 4, 16]


@pytest.mark.parametrize('vertical', [True, False])
@pytest.mark.parametrize('height, width', [(6, 9), (7, 8), (2, 2), (3, 1)])
def test_stripe_attention_stripe_by_stripe(vertical, height, width):
    torch.manual_seed(0)
    attn = StripeAttention(8, 2, stripe=3, vertical=vertical).double()
    qkv = torch.randn(2, height, width, 3, 8, dtype=torch.float64)
    out = attn(qkv)
    dim = 2 if vertical else 1
    parts = []
    for stripe in qkv.split(3, dim):
        q, k, v = stripe.flatten(1, 2).unbind(2)
        heads = [
            (q[..., h] @ k[..., h].transpose(1, 2) / 2).softmax(-1) @ v[..., h]
            for h in (slice(0, 4), slice(4, 8))
        ]
        image = F.conv2d(
            stripe[..., 2, :].permute(0, 3, 1, 2),
            attn.get_v.weight,
            attn.get_v.bias,
            padding=1,
            groups=8,
        )
        parts.append(
            torch.cat(heads, -1).view(2, *stripe.shape[1:3], 8) + image.permute(0, 2, 3, 1)
        )
    torch.testing.assert_close(out, torch.cat(parts, dim))


def test_linear_attention_adds_a_convolution_with_kernels_of_every_head():
    torch.manual_seed(0)
    attn = MapLinearAttention(8, 2, grid=(4, 4)).double()
    torch.nn.init.normal_(attn.positional_encoding)
    qkv = torch.randn(2, 4, 4, 3, 8, dtype=torch.float64)
    q, k, v = qkv.flatten(1, 2).unbind(2)
    expected = simplified_linear_attention(
        q, k + attn.positional_encoding, v, 4, 4, 2, attn.dwc.weight, attn.dwc.bias
    ).view(2, 4, 4, 8)
    expected = expected + attn.get_v(qkv[..., 2, :].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(attn(qkv), expected)


def test_positional_encoding_is_used_bit_for_bit_at_its_own_grid_and_resized_elsewhere(monkeypatch):
    model = settle(CSWinTransformer(attn_types='LLS', **SMALL))
    resized = []
    interpolate = F.interpolate

    def watch(grid, size, **kwargs):
        resized.append(size)
        return interpolate(grid, size=size, **kwargs)

    monkeypatch.setattr(F, 'interpolate', watch)
    model(torch.randn(1, 3, 64, 64))
    assert not resized
    model(torch.randn(1, 3, 64, 40))
    assert resized == [(16, 10), (8, 5), (8, 5)]


@pytest.mark.parametrize('kinds', ['LLS', 'SSS', 'SLL'])
@pytest.mark.parametrize('size', [(3, 3), (9, 30), (64, 64), (61, 37)])
def test_reparameterized_network_is_exact_at_any_size(kinds, size):
    torch.manual_seed(0)
    model = settle(CSWinTransformer(attn_types=kinds, **SMALL).double())
    deployed = reparameterize_model(model)
    assert not any(isinstance(module, (PRepBN, RepBN)) for module in deployed.modules())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for (expected, *_), (out, *_) in zip(model.forward_stages(x), deployed.forward_stages(x)):
            assert (out - expected).abs().max() < 1e-9 * expected.abs().max()
        single = deployed.float()(x.float())
        assert (single - model(x)).abs().max() < 1e-5 * model(x).abs().max()


def test_features_only_returns_the_stages():
    model = timm.create_model(
        'slab_cswin_tiny',
        features_only=True,
        out_indices=(1, 3),
        embed_dim=8,
        num_heads=(2, 2, 2, 2),
        depths=(1, 1, 1, 1),
    )
    assert model.feature_info.channels() == [16, 64]
    assert model.feature_info.reduction() == [8, 32]
    maps = model(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 16, 8, 12), (2, 64, 2, 3)]


def test_classifier_is_replaced_and_features_are_channels_last():
    model = CSWinTransformer(attn_types='LLS', **SMALL).eval()
    x = torch.randn(1, 3, 32, 48)
    model.reset_classifier(7)
    features = model.forward_features(x)
    assert features.shape == (1, 2, 3, 32)
    torch.testing.assert_close(model(x), model.get_classifier()(features.mean((1, 2))))


def test_no_weight_decay_names_the_encodings():
    assert CSWinTransformer(attn_types='LSL', **SMALL).no_weight_decay() == {
        'layers.0.blocks.0.attns.0.positional_encoding',
        'layers.2.blocks.0.attns.0.positional_encoding',
    }


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(attn_types='LX'), "attn_types must hold one letter per stage.*but got 'LX'"),
        (
            dict(num_heads=(2, 2)),
            r'num_heads must hold one entry per stage, 3 in all, but got \(2, 2\)',
        ),
        (dict(split_sizes=(7, 7)), 'split_sizes must hold one entry per stage'),
        (
            dict(num_heads=(3, 2, 2)),
            r'num_heads=\(3, 2, 2\) does not divide the channels \(8, 16, 32\)',
        ),
        (dict(attn_types='SSS', num_heads=(1, 2, 4)), 'even number of heads.*num_heads=.1, 2, 4.'),
        (
            dict(attn_types='SSS', split_sizes=(0, 3, 3)),
            r'width of 1 or more.*stripes \(0, 3, None\)',
        ),
        (dict(img_size=50), 'img_size must be a multiple of 16 pixels.*but got 50'),
        (dict(norm_layer='GN'), "norm type must be one of .* but got 'GN'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CSWinTransformer(**{**SMALL, 'attn_types': 'LLS', **arguments})


def test_image_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match='image is 2x9 pixels .* resize it to at least 3x3'):
        CSWinTransformer(attn_types='LLS', **SMALL)(torch.randn(1, 3, 2, 9))
