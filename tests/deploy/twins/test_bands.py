import pytest
import torch
from torch import nn

from slab_det.deploy.twins.bands import bands, runs_in_bands
from slab_det.layers import ReducedLinearAttention


@pytest.mark.parametrize('height, width, halo', [(1, 5, 2), (7, 3, 1), (23, 11, 2), (50, 4096, 2)])
def test_bands_cover_the_map_once_and_have_the_rows_around_them(height, width, halo):
    rows = 0
    for band in bands(height, width, halo):
        assert band.tokens == slice(rows * width, (rows + band.rows) * width)
        assert band.around == slice(
            max(0, rows - halo) * width, min(height, rows + band.rows + halo) * width
        )
        assert band.skipped == min(rows, halo)
        rows += band.rows
    assert rows == height


def test_half_precision_is_left_to_the_layer_that_sums_in_float32():
    layer = ReducedLinearAttention(16, 4, 1, nn.LayerNorm, grid=(4, 4)).eval()
    tokens = torch.randn(1, 16, 16)
    with torch.no_grad():
        assert not runs_in_bands(layer, tokens.bfloat16())
        with torch.autocast('cpu', torch.bfloat16):
            assert not runs_in_bands(layer, tokens)
    assert not runs_in_bands(layer, tokens)  # gradients are recorded
