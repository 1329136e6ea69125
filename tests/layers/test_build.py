from functools import partial

import pytest
import torch
from torch import nn

from slab_det.layers import PRepBN, layer_norm_eps, make_norm_layer
from slab_det.models import PyramidVisionTransformer, SwinTransformer


@pytest.mark.parametrize('norm', [nn.LayerNorm, 'LN', dict(type='LN'), dict(type=nn.LayerNorm)])
def test_a_class_is_its_name(norm):
    built = make_norm_layer(norm, **layer_norm_eps(norm))(8)
    assert type(built) is nn.LayerNorm and built.eps == 1e-6
    assert type(make_norm_layer(PRepBN)(8)) is PRepBN


def test_a_function_of_the_channels_is_called_as_it_is():
    norm = partial(nn.LayerNorm, eps=1e-3)
    assert make_norm_layer(norm, **layer_norm_eps(norm))(8).eps == 1e-3
    assert make_norm_layer(lambda channels: nn.RMSNorm(channels), eps=1.0)(8).eps is None
    frozen = make_norm_layer(dict(type=nn.RMSNorm, requires_grad=False, eps=1e-4))(8)
    assert frozen.eps == 1e-4 and not frozen.weight.requires_grad


@pytest.mark.parametrize('kind', [SwinTransformer, PyramidVisionTransformer])
def test_networks_take_classes(kind):
    small = dict(depths=(1, 1), num_heads=(1, 2), attn_types='LS', num_classes=0)
    widths = dict(embed_dim=8) if kind is SwinTransformer else dict(embed_dims=(8, 16))
    pyramid = {} if kind is SwinTransformer else dict(mlp_ratios=(2, 2))
    networks = []
    for norm in (nn.LayerNorm, 'LN'):
        torch.manual_seed(0)
        networks.append(kind(norm_layer=norm, **small, **widths, **pyramid).eval())
    image = torch.randn(1, 3, 32, 40)
    assert torch.equal(*(network.forward_features(image) for network in networks))


@pytest.mark.parametrize('norm', ['GN', dict(type='GN'), dict(eps=1e-6), None, 3])
def test_what_is_not_a_norm_is_named(norm):
    with pytest.raises(ValueError, match="norm type must be one of 'PRepBN', .* but got"):
        make_norm_layer(norm)
