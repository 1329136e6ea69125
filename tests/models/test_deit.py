import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils import reparameterize_model

from slab_det.checkpoints import convert_state_dict
from slab_det.layers import PRepBN, RepBN, prepbn_modules
from slab_det.models import VisionTransformer
from slab_det.models.deit import LinearAttention
from tests.networks import settle

SMALL = dict(embed_dim=16, depth=2, num_heads=2, num_classes=5, img_size=32, patch_size=8)


@pytest.mark.parametrize(
    'arch, dim, heads', [('tiny', 192, 3), ('small', 384, 6), ('base', 768, 12)]
)
@pytest.mark.parametrize('pattern, linear', [('slab_deit_{}', True), ('deit_{}_prepbn', False)])
def test_registered_sizes(arch, dim, heads, pattern, linear):
    with torch.device('meta'):
        model = timm.create_model(pattern.format(arch))
    assert model.patch_embed.proj.out_channels == dim and len(model.blocks) == 12
    assert all(block.attn.num_heads == heads for block in model.blocks)
    assert isinstance(model.blocks[0].attn, LinearAttention) == linear
    assert (model.cls_token is None) == linear
    assert all(norm.ln.eps == 1e-6 and norm.repbn.bn.eps == 1e-5 for norm in prepbn_modules(model))


def test_timm_weights_give_timms_features_at_ratio_1():
    torch.manual_seed(0)
    source = timm.create_model('deit_tiny_patch16_224', depth=2, num_classes=5).double().eval()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = VisionTransformer(depth=2, attn_types='S', num_classes=5).double().eval()
    weights, report = convert_state_dict(source.state_dict(), model.state_dict())
    model.load_state_dict(weights)
    assert report.ratio == 1
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(x), source.forward_features(x))
        torch.testing.assert_close(model(x), source(x))


def test_linear_attention_is_its_quadratic_definition_on_a_map_that_is_not_square():
    torch.manual_seed(0)
    height, width = 3, 5
    attn = LinearAttention(8, 2, grid=(2, 8)).double()
    torch.nn.init.normal_(attn.positional_encoding)
    x = torch.randn(2, height * width, 8, dtype=torch.float64)
    q, k, v = F.linear(x, attn.qkv.weight, attn.qkv.bias).split(8, -1)
    grid = attn.positional_encoding.view(1, 2, 8, 8).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (height, width), mode='bilinear', align_corners=False)
    k = k + grid.flatten(2).transpose(1, 2)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = q[..., head].relu() @ k[..., head].relu().transpose(1, 2)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
        image = v[..., head].transpose(1, 2).reshape(2, 4, height, width)
        image = F.conv2d(image, attn.dwc.weight, attn.dwc.bias, padding=2, groups=4)
        heads.append(weights @ v[..., head] + image.flatten(2).transpose(1, 2))
    torch.testing.assert_close(attn(x, height, width), attn.proj(torch.cat(heads, -1)))


@pytest.mark.parametrize('kind', 'LS')
def test_positions_are_used_bit_for_bit_at_their_own_grid_and_resized_elsewhere(kind, monkeypatch):
    model = settle(VisionTransformer(attn_types=kind, **SMALL))
    resized = []
    interpolate = F.interpolate

    def watch(grid, size, mode, **kwargs):
        resized.append((size, mode))
        return interpolate(grid, size=size, mode=mode, **kwargs)

    monkeypatch.setattr(F, 'interpolate', watch)
    model(torch.randn(1, 3, 32, 32))
    assert not resized
    model(torch.randn(1, 3, 40, 23))
    encodings = [((5, 3), 'bilinear')] * 2 if kind == 'L' else []
    assert resized == [((5, 3), 'bicubic'), *encodings]


def test_linear_variant_pools_all_tokens_and_softmax_variant_its_class_token():
    x = torch.randn(2, 3, 40, 24)
    for kind, pooled in (('L', lambda tokens: tokens.mean(1)), ('S', lambda tokens: tokens[:, 0])):
        model = settle(VisionTransformer(attn_types=kind, **SMALL))
        tokens = model.forward_features(x)
        assert tokens.shape == (2, 15 + (kind == 'S'), 16)
        torch.testing.assert_close(model(x), model.get_classifier()(pooled(tokens)))
    average = VisionTransformer(attn_types='S', global_pool='avg', **SMALL).eval()
    tokens = average.forward_features(x)
    torch.testing.assert_close(average(x), average.head(tokens[:, 1:].mean(1)))


@pytest.mark.parametrize('kind', 'LS')
@pytest.mark.parametrize('size', [(8, 8), (9, 30), (32, 32), (47, 25)])
def test_reparameterized_network_is_exact_at_any_size(kind, size):
    torch.manual_seed(0)
    model = settle(VisionTransformer(attn_types=kind, **SMALL).double())
    deployed = reparameterize_model(model)
    assert not any(isinstance(module, (PRepBN, RepBN)) for module in deployed.modules())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for (expected, *_), (out, *_) in zip(model.forward_stages(x), deployed.forward_stages(x)):
            assert (out - expected).abs().max() < 1e-9 * expected.abs().max()
        single = deployed.float()(x.float())
        assert (single - model(x)).abs().max() < 1e-5 * model(x).abs().max()


def test_features_only_returns_the_last_block_after_the_closing_norm():
    torch.manual_seed(0)
    whole = settle(timm.create_model('deit_tiny_prepbn', embed_dim=16, depth=3, num_heads=2))
    model = timm.create_model(
        'deit_tiny_prepbn', features_only=True, embed_dim=16, depth=3, num_heads=2
    )
    assert model.feature_info.channels() == [16] and model.feature_info.reduction() == [16]
    model.model.load_state_dict(
        {k: v for k, v in whole.state_dict().items() if not k.startswith('head.')}
    )
    x = torch.randn(2, 3, 64, 96)
    (features,) = model.eval()(x)
    expected = whole.forward_features(x)[:, 1:].transpose(1, 2).reshape(2, 16, 4, 6)
    torch.testing.assert_close(features, expected)


def test_intermediate_blocks_are_raw_and_the_closing_norm_goes_with_the_last_block():
    model = settle(VisionTransformer(attn_types='S', **SMALL))
    x = torch.randn(1, 3, 32, 40)
    final, maps = model.forward_intermediates(x, output_fmt='NHWC')
    torch.testing.assert_close(final, model.forward_features(x))
    first = copy.deepcopy(model)
    assert first.prune_intermediate_layers([0], prune_norm=False) == [0]
    assert isinstance(first.norm, torch.nn.Identity) and len(first.blocks) == 1
    (early,) = first.forward_intermediates(x, output_fmt='NHWC', intermediates_only=True)
    torch.testing.assert_close(early, maps[0])
    both = copy.deepcopy(model)
    both.prune_intermediate_layers(2, prune_norm=True)
    torch.testing.assert_close(both.forward_stages(x)[-1][0], maps[1].flatten(1, 2))
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW' or 'NHWC', but got 'NLC'"):
        model.forward_intermediates(x, output_fmt='NLC')


def test_classifier_is_replaced():
    model = VisionTransformer(attn_types='S', **SMALL).eval()
    x = torch.randn(1, 3, 32, 32)
    model.reset_classifier(7, 'avg')
    assert model(x).shape == (1, 7) and model.get_classifier().out_features == 7
    model.reset_classifier(0, '')
    torch.testing.assert_close(model(x), model.forward_features(x))


@pytest.mark.parametrize(
    'kind, extra',
    [
        ('L', {'blocks.0.attn.positional_encoding', 'blocks.1.attn.positional_encoding'}),
        ('S', {'cls_token'}),
    ],
)
def test_no_weight_decay_names_tokens_and_positions(kind, extra):
    assert VisionTransformer(attn_types=kind, **SMALL).no_weight_decay() == {'pos_embed'} | extra


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            dict(attn_types='LLSS'),
            "attn_types must be 'L' .linear. or 'S' .softmax.*but got 'LLSS'",
        ),
        (dict(num_heads=3), 'num_heads=3 does not divide embed_dim=16'),
        (dict(img_size=30), 'patch_size=8 does not divide img_size=30'),
        (
            dict(attn_types='L', global_pool='token'),
            "global_pool must be one of 'avg', '' here, but got 'token'",
        ),
        (dict(norm_layer='GN'), "norm type must be one of .* but got 'GN'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**{**SMALL, **arguments})


def test_image_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match='image is 7x32 pixels .* smaller than a patch of 8x8'):
        VisionTransformer(**SMALL)(torch.randn(1, 3, 7, 32))
