import pytest
import timm
import torch
from timm.utils import reparameterize_model

from slab_det.layers import PRepBN, RepBN, set_ratio
from slab_det.models import SwinTransformer
from tests.networks import settle

SMALL = dict(embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=5, drop_path_rate=0.0)


@pytest.mark.parametrize(
    'arch, embed_dim, depths',
    [('tiny', 96, (2, 2, 6, 2)), ('small', 96, (2, 2, 18, 2)), ('base', 128, (2, 2, 18, 2))],
)
@pytest.mark.parametrize('pattern, kinds', [('slab_swin_{}', 'LLSS'), ('swin_{}_prepbn', 'SSSS')])
def test_registered_sizes(arch, embed_dim, depths, pattern, kinds):
    with torch.device('meta'):
        model = timm.create_model(pattern.format(arch))
    assert model.patch_embed.proj.out_channels == embed_dim
    assert tuple(len(stage.blocks) for stage in model.layers) == depths
    linear = [hasattr(stage.blocks[0].attn, 'positional_encoding') for stage in model.layers]
    assert linear == [kind == 'L' for kind in kinds]
    windows = [stage.blocks[0].window for stage in model.layers]
    assert windows == ([56, 28, 7, 7] if kinds == 'LLSS' else [7] * 4)


@pytest.mark.parametrize('kinds', ['LS', 'SL'])
@pytest.mark.parametrize('size', [(4, 4), (30, 61), (64, 64), (120, 37)])
@pytest.mark.parametrize('seed', range(2))
def test_reparameterized_network_is_exact_at_any_size(kinds, size, seed):
    torch.manual_seed(seed)
    model = settle(SwinTransformer(attn_types=kinds, window_sizes=(7, 4), **SMALL).double(), seed)
    deployed = reparameterize_model(model)
    assert not any(isinstance(module, (PRepBN, RepBN)) for module in deployed.modules())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for (expected, *_), (out, *_) in zip(model.forward_stages(x), deployed.forward_stages(x)):
            assert (out - expected).abs().max() < 1e-9 * expected.abs().max()
        torch.testing.assert_close(deployed(x), model(x), rtol=1e-6, atol=1e-6)


def test_reparameterizing_twice_changes_nothing():
    model = settle(SwinTransformer(attn_types='LS', window_sizes=(7, 4), **SMALL))
    once = reparameterize_model(model)
    twice = reparameterize_model(once)
    assert once.state_dict().keys() == twice.state_dict().keys()
    for name, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[name])


def test_features_only_returns_the_stages():
    model = timm.create_model(
        'slab_swin_tiny',
        features_only=True,
        out_indices=(1, 3),
        embed_dim=16,
        num_heads=(1, 2, 4, 8),
        depths=(1, 1, 1, 1),
    )
    assert model.feature_info.channels() == [32, 128]
    assert model.feature_info.reduction() == [8, 32]
    maps = model(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 32, 8, 12), (2, 128, 2, 3)]


def test_classifier_is_replaced_and_features_are_channels_last():
    model = SwinTransformer(attn_types='LS', window_sizes=(7, 4), **SMALL).eval()
    x = torch.randn(1, 3, 32, 32)
    assert model(x).shape == (1, 5)
    model.reset_classifier(7)
    assert model(x).shape == (1, 7)
    assert model.get_classifier().out_features == 7
    assert model.forward_features(x).shape == (1, 4, 4, 32)
    pooled = model.forward_features(x).mean((1, 2))
    torch.testing.assert_close(model(x), model.get_classifier()(pooled))


def test_no_weight_decay_names_encodings_and_position_biases():
    model = SwinTransformer(attn_types='LS', window_sizes=(7, 4), **SMALL)
    assert model.no_weight_decay() == {
        f'layers.0.blocks.{i}.attn.positional_encoding' for i in range(2)
    } | {f'layers.1.blocks.{i}.attn.relative_position_bias_table' for i in range(2)}


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            dict(attn_types='LLS'),
            "attn_types must hold one letter per stage.*4 in all, but got 'LLS'",
        ),
        (dict(attn_types='LLSX'), "but got 'LLSX'"),
        (
            dict(num_heads=(3, 6)),
            r'num_heads must hold one entry per stage, 4 in all, but got \(3, 6\)',
        ),
        (dict(window_sizes=(7,)), 'window_sizes must hold one entry per stage'),
        (dict(norm_layer='GN'), "norm type must be one of .* but got 'GN'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformer(**arguments)


@pytest.mark.parametrize('attn_types', ['LS', 'SS'])
def test_compiled_inference_is_one_graph_and_equal(attn_types):
    torch._dynamo.reset()
    net = SwinTransformer(
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        attn_types=attn_types,
        window_sizes=(8, 4),
        num_classes=0,
    ).eval()
    set_ratio(net, 0.0)
    timm.utils.reparameterize_model(net, inplace=True)
    compiled = torch.compile(net.forward_features, fullgraph=True, backend='eager')
    with torch.no_grad():
        for size in ((76, 52), (20, 20)):  # padded windows, less than one
            image = torch.randn(2, 3, *size)
            torch.testing.assert_close(compiled(image), net.forward_features(image))


def test_compiled_training_yields_the_same_gradients():
    torch._dynamo.reset()
    net = SwinTransformer(
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        attn_types='LS',
        window_sizes=(8, 4),
        num_classes=0,
        drop_path_rate=0.0,
    )
    set_ratio(net, 0.5)
    image = torch.randn(2, 3, 52, 44)

    def gradients(forward):
        net.zero_grad()
        forward(image).square().mean().backward()
        return {name: p.grad.clone() for name, p in net.named_parameters()}

    expected = gradients(net.forward_features)
    actual = gradients(torch.compile(net.forward_features, backend='aot_eager'))
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad, msg=name)
