"""Padding that follows the image in a traced graph."""

import pytest
import torch
from mmdet.models.layers.transformer.utils import AdaptivePadding

from slab_det.mm.onnx.padding import traceable_padding

SIZES = [(8, 8), (9, 7), (1, 1), (3, 14), (5, 10)]


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('mode', ['corner', 'same'])
@pytest.mark.parametrize(
    'kernel, stride, dilation', [(4, 4, 1), (2, 2, 1), (7, 4, 1), (3, 2, 2), (1, 3, 1)]
)
def test_mmdets_padding_is_traced_for_every_size(mode, kernel, stride, dilation):
    padding = torch.nn.Sequential(AdaptivePadding(kernel, stride, dilation, mode))
    with traceable_padding(padding):
        traced = torch.jit.trace(padding, torch.zeros(1, 2, 6, 11))
    for size in SIZES:
        x = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))
        assert torch.equal(traced(x), padding(x))


def test_the_module_is_itself_again_afterwards():
    padding = AdaptivePadding(4, 4)
    with pytest.raises(RuntimeError, match='failed'), traceable_padding(padding):
        assert 'forward' in vars(padding)
        raise RuntimeError('failed')
    assert 'forward' not in vars(padding)
