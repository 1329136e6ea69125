"""Optimizer, schedule and hooks for a transformer with PRepBN."""

from typing import Any

from slab_det.layers import prepbn_modules
from slab_det.mm.backbones import SLABBackbone
from slab_det.mm.config_walk import kind_of
from slab_det.mm.optim import SLABOptimWrapperConstructor

from .notes import Noting

#: Learning rate of AdamW for a batch of BATCH images; it grows in proportion, as mmengine's does.
LR, BATCH = 1e-4, 16
_ADAM = ('Adam', 'AdamW')
CONSTRUCTOR = SLABOptimWrapperConstructor.__name__


def adapt_training(cfg: dict[str, Any], net: SLABBackbone, note: Noting) -> None:
    """Adapt ``cfg``, whose model is final, in place: optimizer, schedule, hooks, weights to load.

    Args:
        cfg: the whole config.
        net: its backbone, as it will be built.
        note: called with (setting, reason).
    """
    wrapper = cfg.get('optim_wrapper')
    if wrapper is not None and 'optimizer' in wrapper:
        scale = _adapt_optimizer(cfg, wrapper, note)
        _adapt_paramwise(wrapper, note)
        _adapt_schedule(cfg, scale, note)
    else:
        note(
            'optim_wrapper',
            f'is not there: use AdamW with lr={LR:g} for {BATCH} images, weight_decay=0.05, and '
            f'constructor={CONSTRUCTOR!r}, which leaves norms without decay',
            left=True,
        )
    _adapt_hooks(cfg, net, note)
    if cfg.get('load_from'):
        note('load_from', 'is a checkpoint with the old backbone')
        cfg['load_from'] = None


def _adapt_optimizer(cfg: dict[str, Any], wrapper: dict[str, Any], note: Noting) -> float:
    """Return the new learning rate over the old one."""
    optimizer = wrapper['optimizer']
    lr = optimizer.get('lr')
    images = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', BATCH)
    rule = LR * images / BATCH
    because = f'{LR:g} for {BATCH} images' + (
        ''
        if images == BATCH
        else f', in proportion to the {images} of auto_scale_lr.base_batch_size'
    )
    if kind_of(optimizer) in _ADAM and lr is not None:
        keys = (wrapper.get('paramwise_cfg') or {}).get('custom_keys') or {}
        if lr <= rule or keys.get('backbone', {}).get('lr_mult', 1) < 1:
            return 1.0
        optimizer['lr'] = rule
        note('optim_wrapper.optimizer.lr', because)
    else:
        wrapper['optimizer'] = dict(type='AdamW', lr=rule, betas=(0.9, 0.999), weight_decay=0.05)
        note(
            'optim_wrapper.optimizer',
            f'{because}; {kind_of(optimizer)} does not train transformers well',
        )
    return rule / lr if lr else 1.0


def _adapt_paramwise(wrapper: dict[str, Any], note: Noting) -> None:
    """Let the backbone say which parameters take no weight decay; drop what named the old one."""
    constructor = wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    options = dict(wrapper.get('paramwise_cfg') or {})
    if constructor not in ('DefaultOptimWrapperConstructor', CONSTRUCTOR):
        note(
            'optim_wrapper.constructor',
            f'{constructor} knows the old backbone by the names of its layers',
        )
        options = {}
    keys = dict(options.pop('custom_keys', None) or {})
    for key in [key for key in keys if key.startswith('backbone.')]:
        note('optim_wrapper.paramwise_cfg.custom_keys', f'{key!r} names a part of the old backbone')
        del keys[key]
    if keys.get('backbone', {}).get('decay_mult') == 1:  # would hold for its norms as well
        keys['backbone'] = {k: v for k, v in keys['backbone'].items() if k != 'decay_mult'}
    if options.pop('bias_lr_mult', None) is not None:
        note(
            'optim_wrapper.paramwise_cfg.bias_lr_mult',
            'is a habit of SGD and would also reach the biases of the backbone',
        )
    options.pop('norm_decay_mult', None)  # 0 by default here
    wrapper.pop('paramwise_cfg', None)
    wrapper['constructor'] = CONSTRUCTOR
    if keys:
        options['custom_keys'] = keys
    if options:
        wrapper['paramwise_cfg'] = options


def _adapt_schedule(cfg: dict[str, Any], scale: float, note: Noting) -> None:
    """Scale the rates that schedulers name themselves."""
    schedulers = cfg.get('param_scheduler') or []
    for index, scheduler in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        if scale != 1 and scheduler.get('eta_min'):
            scheduler['eta_min'] *= scale
            note(f'param_scheduler.{index}.eta_min', 'scaled like the learning rate')


def _adapt_hooks(cfg: dict[str, Any], net: SLABBackbone, note: Noting) -> None:
    """Add the hooks of this package, and checkpoints that are written whole or not at all."""
    hooks: list[dict[str, Any]] = list(cfg.get('custom_hooks') or [])
    types = set(map(kind_of, hooks))
    if prepbn_modules(net) and 'PRepBNHook' not in types:
        hooks.append(dict(type='PRepBNHook', schedule='linear', end=0.8))
    if 'RandomStateHook' not in types:
        hooks.append(dict(type='RandomStateHook'))
        note('custom_hooks', 'RandomStateHook lets a resumed training repeat the uninterrupted one')
    cfg['custom_hooks'] = hooks

    default = cfg.get('default_hooks') or {}
    # If none is named mmengine has this one; None means that nothing is saved.
    saving = default.get('checkpoint', dict(type='CheckpointHook', interval=1))
    # An address names its own backend.
    if saving and not (
        '://' in str(saving.get('out_dir'))
        or saving.get('backend_args')
        or saving.get('file_client_args')
    ):
        saving = {**saving, 'backend_args': dict(backend='whole')}
        cfg['default_hooks'] = {**default, 'checkpoint': saving}
        note(
            'default_hooks.checkpoint.backend_args',
            'a checkpoint gets its name when all of it is written: a killed training leaves none '
            'in part',
        )
