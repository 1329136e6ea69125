"""Optimizer, schedule and hooks of a plugged config."""

from copy import deepcopy

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper

from slab_det.mm.plug.backbones import build
from slab_det.mm.plug.training import adapt_training

from .tiny import BACKBONE, DETECTOR


@pytest.fixture(scope='module')
def plain():
    cfg = Config.fromstring(DETECTOR, '.py').to_dict()
    cfg['model'].update(
        backbone=BACKBONE,
        neck=dict(
            type='FPN',
            in_channels=[32, 64, 128, 256],
            out_channels=16,
            num_outs=4,
            norm_cfg=dict(type='BN'),
        ),
    )
    return cfg


def adapt(cfg, **changes):
    cfg = deepcopy(cfg)
    cfg.update(changes)
    notes = []
    adapt_training(
        cfg,
        build(cfg['model']['backbone']),
        lambda path, text, left=False: notes.append((path, left)),
    )
    return cfg, notes


def groups(cfg):
    """(rate, decay) of every parameter, as mmengine gives them to the optimizer."""
    model = MODELS.build(ConfigDict(deepcopy(cfg['model'])))
    names = {value: name for name, value in model.named_parameters()}
    wrapper = build_optim_wrapper(model, ConfigDict(deepcopy(cfg['optim_wrapper'])))
    return {
        names[group['params'][0]]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
    }


def test_sgd_becomes_adamw_in_proportion_to_the_batch_and_the_rest_of_the_wrapper_stays(plain):
    cfg, notes = adapt(plain)
    assert cfg['optim_wrapper']['optimizer'] == dict(
        type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05
    )
    assert cfg['optim_wrapper']['clip_grad'] == dict(max_norm=35)
    # eta_min is still a tenth of the rate.
    assert cfg['param_scheduler'][1]['eta_min'] == pytest.approx(2e-5)
    assert dict(notes).keys() == {
        'optim_wrapper.optimizer',
        'param_scheduler.1.eta_min',
        'custom_hooks',
        'default_hooks.checkpoint.backend_args',
    }
    assert adapt(plain, auto_scale_lr=None)[0]['optim_wrapper']['optimizer']['lr'] == 1e-4


def test_norms_and_encodings_take_no_decay_and_all_else_does(plain):
    found = groups(adapt(plain)[0])
    free = {name for name, (_, decay) in found.items() if decay == 0}
    expected = {
        name
        for name in found
        if 'norm' in name
        or '.bn.' in name
        or name.endswith(('positional_encoding', 'relative_position_bias_table'))
    }
    assert free == expected and len(free) > 40
    assert {name for name in free if name.endswith('.eta')} and {
        name for name in free if name.startswith('neck.')
    }
    assert {rate for rate, _ in found.values()} == {2e-4}


@pytest.mark.parametrize('norm', ['PRepBN', 'RepBN', 'LN'])
def test_a_lower_rate_of_the_backbone_holds_for_its_norms_too(plain, norm):
    cfg = deepcopy(plain)
    cfg['model']['backbone'] = {**BACKBONE, 'norm_cfg': dict(type=norm)}
    optimizer = dict(type='AdamW', lr=4e-4, weight_decay=1e-4)
    cfg, notes = adapt(
        cfg,
        optim_wrapper=dict(
            optimizer=optimizer,
            paramwise_cfg=dict(
                custom_keys={
                    'backbone': dict(lr_mult=0.1, decay_mult=1.0),
                    'retina_cls': dict(lr_mult=0.5),
                }
            ),
        ),
    )
    assert (
        cfg['optim_wrapper']['optimizer'] == optimizer
    )  # the rate is above the rule's, but the backbone's is not
    found = groups(cfg)
    for name, (rate, decay) in found.items():
        factor = 0.1 if name.startswith('backbone.') else 0.5 if 'retina_cls' in name else 1.0
        assert rate == pytest.approx(4e-4 * factor), name
        free = (
            'norm' in name or '.bn.' in name or name.endswith(('positional_encoding', 'bias_table'))
        )
        assert decay == (0 if free else 1e-4), name
    assert cfg['optim_wrapper']['paramwise_cfg'] == dict(
        custom_keys={'backbone': dict(lr_mult=0.1), 'retina_cls': dict(lr_mult=0.5)}
    )


def test_an_adamw_that_is_too_fast_for_a_transformer_is_slowed_down(plain):
    def wrapper(rate):
        return dict(optimizer=dict(type='AdamW', lr=rate, weight_decay=0.05))

    cfg, notes = adapt(plain, optim_wrapper=wrapper(4e-3))
    assert (
        cfg['optim_wrapper']['optimizer']['lr'] == 2e-4
        and ('optim_wrapper.optimizer.lr', False) in notes
    )
    assert cfg['param_scheduler'][1]['eta_min'] == pytest.approx(5e-5)
    assert adapt(plain, optim_wrapper=wrapper(1e-5))[0]['optim_wrapper']['optimizer']['lr'] == 1e-5


def test_habits_tied_to_the_old_backbone_or_to_sgd_are_named_and_dropped(plain):
    wrapper = plain['optim_wrapper']
    options = dict(
        bias_lr_mult=2.0, bias_decay_mult=0.0, custom_keys={'backbone.layer1': dict(lr_mult=0.5)}
    )
    cfg, notes = adapt(plain, optim_wrapper=dict(wrapper, paramwise_cfg=options))
    kept = cfg['optim_wrapper']['paramwise_cfg']
    assert 'bias_lr_mult' not in kept and kept['bias_decay_mult'] == 0.0
    assert 'custom_keys' not in kept
    assert {
        'optim_wrapper.paramwise_cfg.bias_lr_mult',
        'optim_wrapper.paramwise_cfg.custom_keys',
    } <= dict(notes).keys()
    options = dict(decay_rate=0.8, decay_type='layer_wise', num_layers=12)
    cfg, notes = adapt(
        plain,
        optim_wrapper=dict(
            wrapper, constructor='LearningRateDecayOptimizerConstructor', paramwise_cfg=options
        ),
    )
    assert cfg['optim_wrapper'].keys() == {'type', 'optimizer', 'clip_grad', 'constructor'}
    assert cfg['optim_wrapper']['constructor'] == 'SLABOptimWrapperConstructor'
    assert 'optim_wrapper.constructor' in dict(notes)


def test_the_hooks_come_after_those_that_are_there_and_that_of_the_ratio_only_with_prepbn(plain):
    there, states = dict(type='NumClassCheckHook'), dict(type='RandomStateHook')
    ratio = dict(type='PRepBNHook', schedule='linear', end=0.8)
    assert adapt(plain)[0]['custom_hooks'] == [there, ratio, states]
    assert adapt(plain, custom_hooks=None)[0]['custom_hooks'] == [ratio, states]
    assert adapt(plain, custom_hooks=[ratio])[0]['custom_hooks'] == [ratio, states]
    cfg, notes = adapt(plain, custom_hooks=[states, ratio])
    assert cfg['custom_hooks'] == [states, ratio] and 'custom_hooks' not in dict(notes)
    layer_norm = deepcopy(plain)
    layer_norm['model']['backbone'] = {**BACKBONE, 'norm_cfg': dict(type='LN')}
    assert adapt(layer_norm)[0]['custom_hooks'] == [there, states]


@pytest.mark.parametrize(
    'before, after',
    [
        (
            None,
            dict(
                checkpoint=dict(
                    type='CheckpointHook', interval=1, backend_args=dict(backend='whole')
                )
            ),
        ),
        (
            dict(
                logger=dict(type='LoggerHook'), checkpoint=dict(type='CheckpointHook', interval=5)
            ),
            dict(
                logger=dict(type='LoggerHook'),
                checkpoint=dict(
                    type='CheckpointHook', interval=5, backend_args=dict(backend='whole')
                ),
            ),
        ),
    ],
)
def test_checkpoints_are_written_whole(plain, before, after):
    cfg, notes = adapt(plain, default_hooks=before)
    assert cfg['default_hooks'] == after
    assert ('default_hooks.checkpoint.backend_args', False) in notes


@pytest.mark.parametrize(
    'saving',
    [
        None,
        dict(type='CheckpointHook', backend_args=dict(backend='petrel')),
        dict(type='CheckpointHook', file_client_args=dict(backend='petrel')),
        dict(type='CheckpointHook', out_dir='s3://bucket/runs'),
    ],
    ids=['none', 'backend', 'client', 'address'],
)
def test_a_backend_for_checkpoints_that_is_there_stays(plain, saving):
    cfg, notes = adapt(plain, default_hooks=dict(checkpoint=saving))
    assert cfg['default_hooks'] == dict(checkpoint=saving)
    assert 'default_hooks.checkpoint.backend_args' not in dict(notes)


def test_a_checkpoint_with_the_old_backbone_is_not_loaded(plain):
    cfg, notes = adapt(plain, load_from='faster_rcnn.pth')
    assert cfg['load_from'] is None and ('load_from', False) in notes


def test_a_config_without_an_optimizer_is_named(plain):
    cfg, notes = adapt(plain, optim_wrapper=None)
    assert cfg['optim_wrapper'] is None and ('optim_wrapper', True) in notes
