import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slab_det.layers import (
    ConvPatchEmbed,
    DepthwiseMlp,
    ReducedLinearAttention,
    ReducedSoftmaxAttention,
    fold_norm_into_conv,
)
from slab_det.layers.norms import RepBN
from tests.networks import settle


def attention(kind, ratio, **kwargs):
    torch.manual_seed(0)
    attn = kind(8, 2, ratio, nn.LayerNorm, **kwargs).double()
    for parameter in attn.parameters():
        nn.init.normal_(parameter)
    return attn


def reduced(attn, x, height, width):
    """Keys and values patch by patch."""
    ratio = attn.sr_ratio
    if ratio == 1:
        return attn.kv(x).chunk(2, -1)
    grid = x.view(x.shape[0], height, width, -1)
    patches = [
        torch.einsum('brsc,ocrs->bo', grid[:, i : i + ratio, j : j + ratio], attn.sr.weight)
        + attn.sr.bias
        for i in range(0, height - ratio + 1, ratio)
        for j in range(0, width - ratio + 1, ratio)
    ]
    return attn.kv(attn.norm(torch.stack(patches, 1))).chunk(2, -1)


@pytest.mark.parametrize('ratio', [1, 2, 3])
@pytest.mark.parametrize('height, width', [(6, 6), (5, 8), (3, 4)])
def test_softmax_attention_with_reduced_keys_head_by_head(ratio, height, width):
    attn = attention(ReducedSoftmaxAttention, ratio)
    x = torch.randn(2, height * width, 8, dtype=torch.float64)
    q, (k, v) = attn.q(x), reduced(attn, x, height, width)
    heads = [
        torch.softmax(a @ b.transpose(1, 2) / 2, -1) @ c  # heads of 4 channels
        for a, b, c in zip(q.split(4, -1), k.split(4, -1), v.split(4, -1))
    ]
    torch.testing.assert_close(attn(x, height, width), attn.proj(torch.cat(heads, -1)))


@pytest.mark.parametrize('ratio', [1, 2, 3])
@pytest.mark.parametrize('height, width', [(6, 6), (5, 8), (3, 4)])
def test_linear_attention_with_reduced_keys_head_by_head(ratio, height, width):
    attn = attention(ReducedLinearAttention, ratio, grid=(6, 6))
    x = torch.randn(2, height * width, 8, dtype=torch.float64)
    q, (k, v) = attn.q(x), reduced(attn, x, height, width)
    side = 6 // ratio
    grid = attn.positional_encoding[0].T.reshape(1, 8, side, side)
    grid = F.interpolate(grid, size=(height // ratio, width // ratio), mode='bilinear')
    k = k + grid.flatten(2).transpose(1, 2)
    # Values at every place of the flattened sequence, pixel centres aligned.
    tokens, places = height * width, v.shape[1]
    at = ((torch.arange(tokens, dtype=torch.float64) + 0.5) * places / tokens - 0.5).clamp(
        0, places - 1
    )
    low = at.floor().long()
    high = (low + 1).clamp(max=places - 1)
    part = (at - low)[:, None]
    spread = v[:, low] * (1 - part) + v[:, high] * part
    heads = []
    for a, b, c, image in zip(q.split(4, -1), k.split(4, -1), v.split(4, -1), spread.split(4, -1)):
        weights = a.relu() @ b.relu().transpose(1, 2)
        out = weights @ c / (weights.sum(-1, keepdim=True) + 1e-6)
        image = image.transpose(1, 2).reshape(2, 4, height, width)
        heads.append(out + attn.dwc(image).flatten(2).transpose(1, 2))
    torch.testing.assert_close(attn(x, height, width), attn.proj(torch.cat(heads, -1)))


@pytest.mark.parametrize('kind', [ReducedSoftmaxAttention, ReducedLinearAttention])
@pytest.mark.parametrize('ratio', [1, 3])
@pytest.mark.parametrize('qkv_bias', [True, False])
def test_folding_the_first_norm_is_exact_though_it_feeds_two_layers(kind, ratio, qkv_bias):
    torch.manual_seed(0)
    attn = settle(kind(8, 2, ratio, RepBN, qkv_bias).double())
    norm = settle(nn.Sequential(RepBN(8)).double(), seed=1)[0]
    x = torch.randn(2, 7 * 5, 8, dtype=torch.float64)
    expected = attn(norm(x), 7, 5)
    place = attn.fold(norm)
    assert isinstance(place, nn.Identity)
    assert not any(isinstance(module, RepBN) for module in attn.modules())
    torch.testing.assert_close(attn(x, 7, 5), expected, rtol=1e-10, atol=1e-10)


def test_a_norm_does_not_fold_into_a_convolution_that_pads():
    with pytest.raises(ValueError, match=r'without padding and groups, but got padding=\(1, 1\)'):
        fold_norm_into_conv(RepBN(4), nn.Conv2d(4, 4, 3, padding=1))


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match='num_heads=3 does not divide dim=8'):
        ReducedSoftmaxAttention(8, 3, 1, nn.LayerNorm)


def test_depthwise_mlp_is_pointwise_layers_around_a_convolution_of_the_map():
    torch.manual_seed(0)
    mlp = DepthwiseMlp(4, 12).double()
    x = torch.randn(2, 15, 4, dtype=torch.float64)
    image = mlp.fc1(x).transpose(1, 2).reshape(2, 12, 3, 5)
    image = F.conv2d(image, mlp.dwconv.weight, mlp.dwconv.bias, padding=1, groups=12)
    expected = mlp.fc2(F.gelu(image).flatten(2).transpose(1, 2))
    torch.testing.assert_close(mlp(x, 3, 5), expected)


@pytest.mark.parametrize('kernel, stride, padding', [(4, 4, 0), (7, 4, 3), (3, 2, 1)])
@pytest.mark.parametrize('height, width', [(8, 8), (11, 13), (4, 5)])
def test_patches_are_embedded_by_a_convolution_and_normed(kernel, stride, padding, height, width):
    torch.manual_seed(0)
    embed = ConvPatchEmbed(3, 6, kernel, stride, padding, RepBN).double()
    settle(embed)
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    tokens, rows, cols = embed(image)
    size = tuple((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
    assert (rows, cols) == size == (embed.output_size(height), embed.output_size(width))
    columns = F.unfold(image, kernel, padding=padding, stride=stride).transpose(1, 2)
    expected = embed.norm(columns @ embed.proj.weight.flatten(1).T + embed.proj.bias)
    torch.testing.assert_close(tokens, expected)
    embed.reparameterize()
    assert isinstance(embed.norm, nn.Identity)
    torch.testing.assert_close(embed(image)[0], expected)
