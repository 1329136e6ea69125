import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook
from torch import nn

from slab_det.layers import ChannelAffine, PRepBN, set_ratio
from slab_det.mm.hooks import PRepBNHook
from tests.mm.tiny_runner import Count, Numbers, TinyModel


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


class Predicting(TinyModel):
    """Notes whether its norms are folded and what it predicts; its copies note it there, too."""

    notes = []

    def forward(self, inputs, index=None, mode='tensor'):
        if mode == 'predict':
            x = torch.stack(inputs)
            out = self.last(self.norm2(self.norm1(self.first(x))))
            self.notes.append((isinstance(self.norm1, ChannelAffine), out.detach()))
            return [out]
        return super().forward(inputs, index, mode)


@pytest.fixture
def tested_runner(make_runner):
    """Build a runner that also tests, with 2 samples one by one."""

    def build(hooks, **kwargs):
        loader = dict(
            dataset=Numbers(2),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=pseudo_collate,
            batch_size=1,
            num_workers=0,
        )
        Predicting.notes.clear()
        return make_runner(
            hooks,
            Predicting(),
            test_dataloader=loader,
            test_cfg=dict(),
            test_evaluator=Evaluator(Count()),
            **kwargs,
        )

    return build


def predictions(model):
    x = torch.stack([Numbers(2)[index]['inputs'] for index in range(2)])
    return model.last(model.norm2(model.norm1(model.first(x))))


class Averaged(EMAHook):
    """Has an average that differs from the weights; a test alone would begin with equal ones."""

    def before_test(self, runner):
        self.ema_model.module.last.bias.data.add_(5)


@pytest.mark.parametrize('update_buffers', [True, False])
def test_the_averaged_model_is_tested_folded_and_the_weights_come_back(
    tested_runner, update_buffers
):
    ema = Averaged(momentum=0.3, update_buffers=update_buffers)
    runner = tested_runner([ema, PRepBNHook(end=1), dict(type='ReparameterizeHook')])
    runner.train()
    model = runner.model
    weights = copy.deepcopy(model.state_dict())
    expected = predictions(copy.deepcopy(model).eval()) + 5
    for _ in range(2):  # the second test swaps and folds anew
        Predicting.notes.clear()
        runner.test()
        folded, found = zip(*Predicting.notes)
        assert folded == (True, True)
        torch.testing.assert_close(torch.cat(found), expected)
        assert runner.model is model
        for name, value in weights.items():
            assert torch.equal(model.state_dict()[name], value), name


def test_a_wrapped_model_is_tested_folded_and_comes_back(tested_runner):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

    runner = tested_runner([dict(type='ReparameterizeHook')])
    set_ratio(runner.model, 0)
    runner.model = wrapper = Wrapper(runner.model)
    runner.test()
    assert runner.model is wrapper and isinstance(wrapper._orig_mod.norm1, PRepBN)
    assert [folded for folded, _ in Predicting.notes] == [True, True]
    assert Predicting.notes[0][1].shape == (1, 4, 1)
