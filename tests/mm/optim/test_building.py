"""The optimizer of a config, built before the training."""

import pytest
from mmengine.config import Config
from torch import nn

from slab_det.errors import InputError
from slab_det.mm.optim import build_plain, check_optim_wrapper
from tests import tiny_backbones


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = tiny_backbones.build('swin')


def config(**wrapper):
    optimizer = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
    return Config(dict(default_scope='mmdet', optim_wrapper=dict(optimizer=optimizer, **wrapper)))


@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
def test_constructors_for_other_backbones_are_refused_with_the_one_that_works(decay_type):
    cfg = config(
        constructor='LearningRateDecayOptimizerConstructor',
        paramwise_cfg=dict(decay_rate=0.7, decay_type=decay_type, num_layers=6),
    )
    with pytest.raises(InputError, match='some.py .*SLABOptimWrapperConstructor.*layer_decay_rate'):
        check_optim_wrapper(cfg, Detector(), 'some.py')


def test_what_trains_passes(caplog):
    check_optim_wrapper(config(), Detector(), 'some.py')
    decayed = config(
        constructor='SLABOptimWrapperConstructor', paramwise_cfg=dict(layer_decay_rate=0.7)
    )
    check_optim_wrapper(decayed, Detector(), 'some.py')
    check_optim_wrapper(Config(dict(default_scope='mmdet')), Detector(), 'some.py')
    several = Config(dict(optim_wrapper=dict(constructor='Several', backbone=dict())))
    check_optim_wrapper(several, Detector(), 'some.py')


def test_an_optimizer_that_cannot_be_built_is_named():
    with pytest.raises(InputError, match='optim_wrapper of some.py cannot be built: .*beta'):
        cfg = config()
        cfg.optim_wrapper.optimizer.beta = 3
        check_optim_wrapper(cfg, Detector(), 'some.py')


def test_mixed_precision_and_accumulation_are_left_out():
    cfg = config(
        type='AmpOptimWrapper',
        loss_scale='dynamic',
        accumulative_counts=4,
        clip_grad=dict(max_norm=1),
    )
    built = build_plain(Detector(), cfg.optim_wrapper)
    assert type(built).__name__ == 'OptimWrapper' and built.clip_grad_kwargs == dict(max_norm=1)
    assert built._accumulative_counts == 1
