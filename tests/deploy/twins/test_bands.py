import pytest
import torch
from torch import nn

from slab_det.layers import DepthwiseMlp, ReducedLinearAttention
from slab_det.layers import bands as module
from slab_det.layers.bands import bands, runs_in_bands


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


@pytest.fixture
def narrow(monkeypatch):
    """Bands of 8 rows at most and chunks that end anywhere."""
    monkeypatch.setattr(module, 'BAND', 40)
    monkeypatch.setattr(module, 'CHUNK', 17)


def settled(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.double().eval()


@pytest.mark.parametrize('height, width', [(1, 1), (5, 6), (19, 7), (40, 3)])
@pytest.mark.parametrize(
    'layer',
    [
        lambda: ReducedLinearAttention(16, 4, 1, nn.LayerNorm, grid=(6, 5)),
        lambda: DepthwiseMlp(16, 24),
    ],
    ids=['attention', 'feed-forward'],
)
def test_bands_compute_what_the_whole_map_does(narrow, layer, height, width):
    layer, norm = settled(layer()), settled(nn.LayerNorm(16))
    tokens = torch.randn(2, height * width, 16, dtype=torch.float64)
    expected = tokens + layer(norm(tokens), height, width)  # with gradients: nothing is cut
    with torch.no_grad():
        assert runs_in_bands(layer, tokens)
        actual = layer.residual(tokens, norm, height, width)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_half_precision_is_left_to_the_layer_that_sums_in_float32():
    layer = ReducedLinearAttention(16, 4, 1, nn.LayerNorm, grid=(4, 4)).eval()
    tokens = torch.randn(1, 16, 16)
    with torch.no_grad():
        assert not runs_in_bands(layer, tokens.bfloat16())
        with torch.autocast('cpu', torch.bfloat16):
            assert not runs_in_bands(layer, tokens)
    assert not runs_in_bands(layer, tokens)  # gradients are recorded
