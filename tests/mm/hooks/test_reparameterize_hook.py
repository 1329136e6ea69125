from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS
from torch import nn

from slab_det.layers import ChannelAffine, PRepBN, set_ratio


def runner():
    return SimpleNamespace(model=nn.Sequential(nn.Linear(4, 4), PRepBN(4)).eval())


def test_norms_are_gone_before_the_test_and_outputs_stay():
    run = runner()
    set_ratio(run.model, 0)
    x = torch.randn(3, 4)
    expected = run.model(x)
    HOOKS.build(dict(type='ReparameterizeHook')).before_test_epoch(run)
    assert isinstance(run.model[1], ChannelAffine)
    torch.testing.assert_close(run.model(x), expected)


def test_unfinished_ratio_stops_the_test_unless_told_otherwise():
    run = runner()
    with pytest.raises(ValueError, match='ratio is 1, not 0'):
        HOOKS.build(dict(type='ReparameterizeHook')).before_test_epoch(run)
    HOOKS.build(dict(type='ReparameterizeHook', drop_layer_norm=True)).before_test_epoch(run)
    assert isinstance(run.model[1], ChannelAffine)
