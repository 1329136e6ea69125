import pytest
import timm
import torch
from timm.utils import reparameterize_model

from slab_det.layers import (
    PRepBN,
    ReducedLinearAttention,
    ReducedSoftmaxAttention,
    RepBN,
    set_ratio,
)
from slab_det.models import PyramidVisionTransformer
from tests.networks import settle

SMALL = dict(
    embed_dims=(8, 16, 16),
    depths=(2, 1, 1),
    num_heads=(1, 2, 4),
    mlp_ratios=(2, 2, 2),
    img_size=64,
    num_classes=5,
    drop_path_rate=0.0,
)


@pytest.mark.parametrize(
    'arch, depths',
    [
        ('tiny', (2, 2, 2, 2)),
        ('small', (3, 4, 6, 3)),
        ('medium', (3, 4, 18, 3)),
        ('large', (3, 8, 27, 3)),
    ],
)
@pytest.mark.parametrize(
    'pattern, kind, ratios',
    [
        ('slab_pvt_{}', ReducedLinearAttention, [1, 1, 1, 1]),
        ('pvt_{}_prepbn', ReducedSoftmaxAttention, [8, 4, 2, 1]),
    ],
)
def test_registered_sizes(arch, depths, pattern, kind, ratios):
    with torch.device('meta'):
        model = timm.create_model(pattern.format(arch))
    assert tuple(len(stage.blocks) for stage in model.layers) == depths
    blocks = [stage.blocks[0] for stage in model.layers]
    assert {type(block.attn) for block in blocks} == {kind}
    assert [block.attn.sr_ratio for block in blocks] == ratios
    assert [block.attn.num_heads for block in blocks] == [1, 2, 5, 8]
    assert [block.mlp.fc1.in_features for block in blocks] == [64, 128, 320, 512]
    assert [block.mlp.fc1.out_features for block in blocks] == [512, 1024, 1280, 2048]
    assert [stage.absolute_pos_embed.shape[1] for stage in model.layers] == [3136, 784, 196, 49]
    norms = [norm for norm in model.modules() if isinstance(norm, PRepBN)]
    assert {norm.ln.eps for norm in norms} == {1e-6}
    assert {norm.repbn.bn.eps for norm in norms} == {1e-5}


@pytest.mark.parametrize(
    'kinds, ratios',
    [('LLL', (1, 1, 1)), ('LLL', (4, 2, 1)), ('SLS', (3, 2, 1)), ('SSS', (1, 2, 1))],
)
@pytest.mark.parametrize('size', [(64, 64), (48, 83), (109, 50)])
def test_reparameterized_network_is_exact_at_any_size(kinds, ratios, size):
    torch.manual_seed(0)
    model = settle(PyramidVisionTransformer(attn_types=kinds, sr_ratios=ratios, **SMALL).double())
    deployed = reparameterize_model(model)
    assert not any(isinstance(module, (PRepBN, RepBN)) for module in deployed.modules())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for (expected, *_), (out, *_) in zip(model.forward_stages(x), deployed.forward_stages(x)):
            assert (out - expected).abs().max() < 1e-9 * expected.abs().max()


@pytest.mark.parametrize('kinds, side', [('LLL', 16), ('SSS', 32)])
def test_reparameterized_network_is_close_in_float32_on_the_smallest_image(kinds, side):
    torch.manual_seed(0)
    model = settle(PyramidVisionTransformer(attn_types=kinds, **SMALL))
    deployed = reparameterize_model(model)
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        for (expected, *_), (out, *_) in zip(model.forward_stages(x), deployed.forward_stages(x)):
            assert (out - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize('size', [(16, 16), (31, 50), (70, 33)])
def test_sizes_that_do_not_divide_are_floored_stage_by_stage(size):
    model = PyramidVisionTransformer(attn_types='LLL', **SMALL).eval()
    x = torch.randn(1, 3, *size)
    outputs = model.forward_stages(x)
    assert [(h, w) for _, h, w in outputs] == [(size[0] // s, size[1] // s) for s in (4, 8, 16)]
    # What fills no patch of the first embedding cannot be seen at all.
    cut = x[..., : size[0] // 4 * 4, : size[1] // 4 * 4]
    for (tokens, *_), (same, *_) in zip(outputs, model.forward_stages(cut)):
        torch.testing.assert_close(tokens, same)


def test_positions_are_used_bit_for_bit_at_the_size_they_are_made_for():
    model = PyramidVisionTransformer(attn_types='LLL', **{**SMALL, 'img_size': (48, 80)}).eval()
    seen = []
    model.layers[0].blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        embedded = model.patch_embed(x)[0]
        model.forward_stages(x)
    assert torch.equal(seen[0], embedded + model.layers[0].absolute_pos_embed)
    assert model.layers[0].absolute_pos_embed.shape[1] == 12 * 20
    assert model.grid_sizes()['layers.1.absolute_pos_embed'] == (6, 10)
    assert model.grid_sizes()['layers.2.blocks.0.attn.positional_encoding'] == (3, 5)


@pytest.mark.parametrize(
    'kinds, ratios, size, least',
    [('LLL', None, (15, 64), 16), ('SSS', None, (64, 31), 32), ('LSL', (1, 3, 1), (20, 20), 24)],
)
def test_images_too_small_for_a_stage_are_refused(kinds, ratios, size, least):
    model = PyramidVisionTransformer(attn_types=kinds, sr_ratios=ratios, **SMALL).eval()
    message = rf'image is {size[0]}x{size[1]} pixels \(height x width\).* at least {least};'
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 3, *size))
    assert model(torch.zeros(1, 3, least, least)).isfinite().all()


def test_features_only_returns_the_stages():
    model = timm.create_model(
        'slab_pvt_tiny',
        features_only=True,
        out_indices=(1, 2),
        embed_dims=(8, 16, 16, 32),
        num_heads=(1, 2, 2, 4),
        depths=(1, 1, 1, 1),
    )
    assert model.feature_info.channels() == [16, 16]
    assert model.feature_info.reduction() == [8, 16]
    maps = model(torch.randn(2, 3, 64, 97))
    assert [tuple(m.shape) for m in maps] == [(2, 16, 8, 12), (2, 16, 4, 6)]


def test_classifier_is_replaced_and_features_are_channels_last():
    model = PyramidVisionTransformer(attn_types='LLS', **SMALL).eval()
    x = torch.randn(1, 3, 64, 32)
    assert model(x).shape == (1, 5)
    model.reset_classifier(7)
    assert model.get_classifier().out_features == 7
    assert model.forward_features(x).shape == (1, 4, 2, 16)
    pooled = model.forward_features(x).mean((1, 2))
    torch.testing.assert_close(model(x), model.get_classifier()(pooled))


def test_no_weight_decay_names_positions():
    model = PyramidVisionTransformer(attn_types='LSS', **SMALL)
    assert model.no_weight_decay() == {
        *(f'layers.{i}.absolute_pos_embed' for i in range(3)),
        *(f'layers.0.blocks.{i}.attn.positional_encoding' for i in range(2)),
    }


def test_batch_norm_keeps_its_own_epsilon_without_a_layer_norm():
    model = PyramidVisionTransformer(attn_types='SSS', norm_layer='RepBN', **SMALL)
    assert {m.bn.eps for m in model.modules() if isinstance(m, RepBN)} == {1e-5}
    given = PyramidVisionTransformer(
        attn_types='SSS', norm_layer=dict(type='LN', eps=1e-3), **SMALL
    )
    assert {m.eps for m in given.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}


@pytest.mark.parametrize('kinds', ['LLL', 'SSS'])
def test_half_precision_is_close_under_autocast(kinds):
    torch.manual_seed(0)
    model = settle(PyramidVisionTransformer(attn_types=kinds, sr_ratios=(2, 2, 1), **SMALL))
    x = torch.randn(1, 3, 64, 96)
    expected = model.forward_features(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = model.forward_features(x)
    assert out.isfinite().all() and (out - expected).abs().max() < 0.05 * expected.abs().max()


def test_every_parameter_learns_at_a_blend():
    torch.manual_seed(0)
    model = PyramidVisionTransformer(attn_types='LLS', sr_ratios=(2, 1, 2), **SMALL).train()
    set_ratio(model, 0.5)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    still = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()
    ]
    assert still == []


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            dict(attn_types='LLS'),
            "attn_types must hold one letter per stage.*4 in all, but got 'LLS'",
        ),
        (
            dict(sr_ratios=(8, 4, 2)),
            r'sr_ratios must hold one entry per stage, 4 in all, but got \(8, 4, 2\)',
        ),
        (dict(sr_ratios=(8, 4, 2, 0)), r'sr_ratios must be 1 or more, but got \(8, 4, 2, 0\)'),
        (dict(embed_dims=(64, 128)), 'embed_dims must hold one entry per stage'),
        (dict(img_size=20), 'img_size is 20x20 pixels .* at least 32'),
        (dict(norm_layer='GN'), "norm type must be one of .* but got 'GN'"),
        (dict(num_heads=(1, 2, 5, 7)), 'num_heads=7 does not divide dim=512'),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PyramidVisionTransformer(**arguments)
