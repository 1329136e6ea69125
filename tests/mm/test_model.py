from types import SimpleNamespace

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from slab_det.mm.model import averaged_models, optim_wrappers, unwrap


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


def wrapped(model):
    return Wrapper(model)


def compiled(model):
    return torch.compile(model)


@pytest.mark.parametrize(
    'wrap',
    [
        (),
        (wrapped,),
        (compiled,),
        (compiled, wrapped),
        (wrapped, compiled),
    ],
    ids=lambda wrap: ' in '.join(one.__name__ for one in wrap) or 'plain',
)
def test_the_model_inside_all_wrappers(monkeypatch, wrap):
    monkeypatch.setitem(MODEL_WRAPPERS._module_dict, 'Wrapper', Wrapper)
    model = outer = nn.Linear(2, 2)
    for one in wrap:
        outer = one(outer)
    assert unwrap(outer) is model


def test_a_model_that_has_a_module_is_not_a_wrapper():
    model = Wrapper(nn.Linear(2, 2))
    assert unwrap(model) is model


def test_averaged_models_come_once():
    average = ExponentialMovingAverage(nn.Linear(2, 2))
    hooks = [SimpleNamespace(ema_model=average, other=3), SimpleNamespace(again=average)]
    assert averaged_models(SimpleNamespace(hooks=hooks)) == [average.module]
    assert averaged_models(SimpleNamespace(hooks=[SimpleNamespace()])) == []


def test_wrappers_of_one_and_of_several_optimizers():
    from mmengine.optim import OptimWrapper, OptimWrapperDict

    one, two = (
        OptimWrapper(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)) for _ in range(2)
    )
    assert optim_wrappers(SimpleNamespace(optim_wrapper=one)) == [one]
    both = OptimWrapperDict(one=one, two=two)
    assert optim_wrappers(SimpleNamespace(optim_wrapper=both)) == [one, two]
