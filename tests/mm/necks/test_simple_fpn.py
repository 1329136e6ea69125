import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS

from slab_det.mm.necks import SimpleFPN


def layer_norm(x):
    mean = x.mean(1, keepdim=True)
    return (x - mean) / (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()


def test_default_levels_of_stride_16_have_strides_4_to_64():
    neck = MODELS.build(dict(type='SimpleFPN', in_channels=8, out_channels=6))
    outs = neck((torch.randn(2, 8, 5, 7),))
    assert [tuple(out.shape) for out in outs] == [
        (2, 6, 20, 28),
        (2, 6, 10, 14),
        (2, 6, 5, 7),
        (2, 6, 3, 4),
        (2, 6, 2, 2),
    ]


def test_every_level_is_made_of_the_one_map():
    torch.manual_seed(0)
    neck = SimpleFPN([8], 6, num_outs=4)
    x = torch.randn(1, 8, 4, 6)
    four, two, one, half = neck.levels
    up = F.conv_transpose2d(x, four[0].weight, four[0].bias, stride=2)
    up = F.conv_transpose2d(F.gelu(layer_norm(up)), four[3].weight, four[3].bias, stride=2)
    starts = [
        up,
        F.conv_transpose2d(x, two[0].weight, two[0].bias, stride=2),
        x,
        F.max_pool2d(x, 2),
    ]
    for out, level, start in zip(neck([x]), neck.levels, starts):
        reduce, _, smooth, _ = level[-4:]
        expected = layer_norm(F.conv2d(start, reduce.weight))
        expected = layer_norm(F.conv2d(expected, smooth.weight, padding=1))
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_coarser_levels_subsample_the_last_one():
    neck = SimpleFPN(8, 6, scales=(2, 1), num_outs=4)
    outs = neck([torch.randn(1, 8, 5, 6)])
    torch.testing.assert_close(outs[2], outs[1][..., ::2, ::2])
    torch.testing.assert_close(outs[3], outs[2][..., ::2, ::2])


def test_a_map_of_one_token_has_every_level():
    outs = SimpleFPN(8, 6)([torch.randn(1, 8, 1, 1)])
    assert [out.shape[-1] for out in outs] == [4, 2, 1, 1, 1]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(in_channels=[8, 16]), r'in_channels must be that of one map, but got \(8, 16\)'),
        (dict(scales=(4, 3)), r'some of 4, 2, 1 and 0.5 in descending order, but got \(4, 3\)'),
        (dict(scales=(1, 2)), r'in descending order, but got \(1, 2\)'),
        (dict(scales=()), 'scales must be some of'),
        (dict(num_outs=3), 'num_outs must be 4 or more.*but got 3'),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimpleFPN(**{'in_channels': 8, **arguments})


def test_several_maps_are_refused():
    maps = [torch.randn(1, 8, 4, 4)] * 2
    with pytest.raises(ValueError, match='SimpleFPN takes one map, but got 2'):
        SimpleFPN(8, 6)(maps)
