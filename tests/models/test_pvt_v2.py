import math

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from slab_det.layers import ChannelAffine, PRepBN, ReducedLinearAttention, RepBN, prepbn_modules
from slab_det.models import PyramidVisionTransformerV2
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
    'arch, dims, depths, ratios',
    [
        ('b0', (32, 64, 160, 256), (2, 2, 2, 2), (8, 8, 4, 4)),
        ('b1', (64, 128, 320, 512), (2, 2, 2, 2), (8, 8, 4, 4)),
        ('b2', (64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)),
        ('b3', (64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4)),
        ('b4', (64, 128, 320, 512), (3, 8, 27, 3), (8, 8, 4, 4)),
        ('b5', (64, 128, 320, 512), (3, 6, 40, 3), (4, 4, 4, 4)),
    ],
)
def test_registered_sizes(arch, dims, depths, ratios):
    with torch.device('meta'):
        model = timm.create_model(f'slab_pvt_v2_{arch}')
    assert tuple(len(stage.blocks) for stage in model.layers) == depths
    blocks = [stage.blocks[0] for stage in model.layers]
    assert {type(block.attn) for block in blocks} == {ReducedLinearAttention}
    assert [block.attn.sr_ratio for block in blocks] == [1, 1, 1, 1]
    assert tuple(block.mlp.fc1.in_features for block in blocks) == dims
    assert tuple(block.mlp.dwconv.groups // dim for block, dim in zip(blocks, dims)) == ratios
    assert not any(name.endswith('absolute_pos_embed') for name, _ in model.named_parameters())
    assert {norm.ln.eps for norm in prepbn_modules(model)} == {1e-6}


@pytest.mark.parametrize(
    'kinds, ratios', [('LLL', (1, 1, 1)), ('LSL', (4, 2, 1)), ('SSS', (3, 2, 1))]
)
@pytest.mark.parametrize('size', [(64, 64), (48, 83), (109, 50)])
def test_reparameterized_network_is_exact_at_any_size(kinds, ratios, size):
    torch.manual_seed(0)
    model = settle(PyramidVisionTransformerV2(attn_types=kinds, sr_ratios=ratios, **SMALL).double())
    deployed = reparameterize_model(model)
    assert not any(isinstance(module, (PRepBN, RepBN)) for module in deployed.modules())
    # Only the norms whose output is the stage's have no layer to fold into.
    affine = [
        name for name, module in deployed.named_modules() if isinstance(module, ChannelAffine)
    ]
    assert affine == [f'layers.{i}.norm' for i in range(3)]
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for (expected, *_), (out, *_) in zip(model.forward_stages(x), deployed.forward_stages(x)):
            assert (out - expected).abs().max() < 1e-9 * expected.abs().max()


@pytest.mark.parametrize('size', [(1, 1), (16, 17)])
def test_reparameterized_network_is_close_in_float32_on_small_images(size):
    torch.manual_seed(0)
    model = settle(PyramidVisionTransformerV2(attn_types='LLL', **SMALL))
    deployed = reparameterize_model(model)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        for (expected, *_), (out, *_) in zip(model.forward_stages(x), deployed.forward_stages(x)):
            assert (out - expected).abs().max() < 1e-5 * expected.abs().max()


def test_convolutions_start_from_their_fan_out():
    torch.manual_seed(0)
    model = PyramidVisionTransformerV2(attn_types='LLL', **{**SMALL, 'embed_dims': (64, 128, 256)})
    conv = model.layers[2].downsample.proj
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.02)
    deep = model.layers[2].blocks[0].mlp.dwconv
    assert deep.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert not conv.bias.any() and not deep.bias.any()


@pytest.mark.parametrize('size', [(64, 64), (33, 97)])
def test_outputs_are_normed_by_the_closing_norms_and_rounded_up(size):
    model = PyramidVisionTransformerV2(attn_types='LLL', norm_layer='LN', **SMALL).eval()
    for stage in model.layers:
        assert isinstance(stage.norm, nn.LayerNorm)
    outputs = model.forward_stages(torch.randn(1, 3, *size))
    assert [(h, w) for _, h, w in outputs] == [
        (math.ceil(size[0] / s), math.ceil(size[1] / s)) for s in (4, 8, 16)
    ]
    for tokens, _, _ in outputs:
        torch.testing.assert_close(
            tokens.mean(-1), torch.zeros(tokens.shape[:2]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            tokens.std(-1, correction=0), torch.ones(tokens.shape[:2]), atol=1e-3, rtol=0
        )


def test_images_too_small_for_a_reduction_are_refused():
    model = PyramidVisionTransformerV2(attn_types='SLL', **SMALL).eval()
    # A map of ceil(28 / 4) = 7 tokens a side does not hold one patch of 8.
    with pytest.raises(ValueError, match='image is 28x40 pixels .* at least 29'):
        model(torch.zeros(1, 3, 28, 40))
    assert model(torch.zeros(1, 3, 29, 29)).shape == (1, 5)


def test_features_only_returns_the_normed_stages():
    model = timm.create_model('slab_pvt_v2_b0', features_only=True, depths=(1, 1, 1, 1))
    assert model.feature_info.channels() == [32, 64, 160, 256]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    maps = model(torch.randn(1, 3, 64, 97))
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 25), (8, 13), (4, 7), (2, 4)]


def test_no_weight_decay_names_the_encodings():
    model = PyramidVisionTransformerV2(attn_types='LSS', **SMALL)
    assert model.no_weight_decay() == {
        f'layers.0.blocks.{i}.attn.positional_encoding' for i in range(2)
    }
