import pytest
import torch
from torch import nn

from slab_det.layers import PatchEmbed, PatchMerging, RepBN


def settled_repbn(channels):
    norm = RepBN(channels)
    norm.bn.weight.data.normal_()
    norm.bn.bias.data.normal_()
    norm.bn.running_mean.normal_()
    norm.bn.running_var.uniform_(0.5, 2)
    return norm


@pytest.mark.parametrize('size', [(4, 4), (9, 13), (5, 8)])
def test_embedding_pads_to_whole_patches(size):
    embed = PatchEmbed(4, 3, 6)
    image = torch.randn(2, 3, *size)
    tokens, height, width = embed(image)
    assert (height, width) == (-(-size[0] // 4), -(-size[1] // 4))
    whole = torch.zeros(2, 3, height * 4, width * 4)
    whole[..., : size[0], : size[1]] = image
    y, x = height - 1, width - 1
    patch = whole[..., 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten(1)
    expected = patch @ embed.proj.weight.flatten(1).T + embed.proj.bias
    torch.testing.assert_close(tokens[:, -1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [(3, 100), (100, 3)])
def test_image_smaller_than_a_patch_is_refused(size):
    with pytest.raises(
        ValueError, match=f'image is {size[0]}x{size[1]} pixels.*smaller than a patch of 4x4'
    ):
        PatchEmbed(4)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize('height, width', [(4, 6), (3, 5), (1, 1)])
def test_merging_takes_tokens_column_by_column(height, width):
    merge = PatchMerging(2, lambda channels: nn.Identity())
    x = torch.randn(2, height * width, 2)
    padded = torch.zeros(2, height + height % 2, width + width % 2, 2)
    padded[:, :height, :width] = x.view(2, height, width, 2)
    parts = [padded[:, dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
    expected = torch.cat(parts, -1).flatten(1, 2) @ merge.reduction.weight.T
    out, new_height, new_width = merge(x, height, width)
    assert (new_height, new_width) == (padded.shape[1] // 2, padded.shape[2] // 2)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    'part', [PatchEmbed(4, 3, 6, settled_repbn), PatchMerging(3, settled_repbn)]
)
def test_folding_keeps_the_output_and_removes_the_norm(part):
    part = part.double().eval()
    args = (
        (torch.randn(1, 3, 9, 10).double(),)
        if isinstance(part, PatchEmbed)
        else (torch.randn(1, 15, 3).double(), 3, 5)
    )
    expected = part(*args)[0]
    part.reparameterize()
    assert not any(isinstance(module, RepBN) for module in part.modules())
    torch.testing.assert_close(part(*args)[0], expected, rtol=1e-9, atol=1e-12)
