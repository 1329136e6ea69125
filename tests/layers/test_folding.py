import pytest
import torch
from torch import nn

from slab_det.layers import RepBN, fold_norm_after_conv, fold_norm_into_conv, fold_norm_into_linear
from tests.networks import settle


def norm_of(channels):
    return settle(nn.Sequential(RepBN(channels)).double())[0]


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('kernel', [1, 2, 3])
def test_a_norm_folds_into_a_convolution_of_any_kernel(kernel, bias):
    norm, conv = norm_of(4), nn.Conv2d(4, 6, kernel, stride=kernel, bias=bias).double()
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    expected = conv(norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    fold_norm_into_conv(norm, conv)
    assert conv.bias.shape == (6,)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('groups', [1, 2])
def test_a_norm_folds_into_the_convolution_before_it(groups, bias):
    norm, conv = norm_of(6), nn.Conv2d(4, 6, 3, padding=1, groups=groups, bias=bias).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    expected = norm(conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    fold_norm_after_conv(conv, norm)
    assert conv.bias.shape == (6,)
    torch.testing.assert_close(conv(x), expected)


def test_a_linear_layer_gains_a_bias():
    norm, linear = norm_of(4), nn.Linear(4, 6, bias=False).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = linear(norm(x))
    fold_norm_into_linear(norm, linear)
    torch.testing.assert_close(linear(x), expected)
