"""Optimizer, schedule and hooks for a transformer with PRepBN."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as BASE_MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slab_det.layers import PRepBN, prepbn_modules
from slab_det.mm.backbones import SLABBackbone

Note = Callable[..., None]

#: Learning rate of AdamW for a batch of BATCH images; it grows in proportion, as mmengine's does.
LR, BATCH = 1e-4, 16
_ADAM = ('Adam', 'AdamW')
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


def adapt_training(cfg: dict[str, Any], net: SLABBackbone, note: Note) -> None:
    """Adapt ``cfg``, whose model is final, in place: optimizer, schedule, hooks, weights to load.

    Args:
        cfg: the whole config.
        net: its backbone, as it will be built.
        note: called with (setting, reason).
    """
    wrapper = cfg.get('optim_wrapper')
    if wrapper is not None and 'optimizer' in wrapper:
        scale = _adapt_optimizer(cfg, wrapper, note)
        _adapt_paramwise(wrapper, cfg['model'], net, note)
        _adapt_schedule(cfg, scale, note)
    else:
        note(
            'optim_wrapper',
            f'is not there: use AdamW with lr={LR:g} for {BATCH} images, weight_decay=0.05, and '
            'none on norms',
            left=True,
        )
    _adapt_hooks(cfg, net, note)
    if cfg.get('load_from'):
        note('load_from', 'is a checkpoint with the old backbone')
        cfg['load_from'] = None


def _adapt_optimizer(cfg: dict[str, Any], wrapper: dict[str, Any], note: Note) -> float:
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
    if optimizer['type'] in _ADAM and lr is not None:
        if lr <= rule or _backbone_rate(wrapper) < 1:
            return 1.0
        optimizer['lr'] = rule
        note('optim_wrapper.optimizer.lr', because)
    else:
        wrapper['optimizer'] = dict(type='AdamW', lr=rule, betas=(0.9, 0.999), weight_decay=0.05)
        note(
            'optim_wrapper.optimizer',
            f'{because}; {optimizer["type"]} does not train transformers well',
        )
    return rule / lr if lr else 1.0


def _backbone_rate(wrapper: dict[str, Any]) -> float:
    keys = (wrapper.get('paramwise_cfg') or {}).get('custom_keys') or {}
    return keys.get('backbone', {}).get('lr_mult', 1.0)


def _adapt_paramwise(
    wrapper: dict[str, Any], model: dict[str, Any], net: SLABBackbone, note: Note
) -> None:
    """Take weight decay from norms and positional encodings."""
    constructor = wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    options = wrapper.get('paramwise_cfg') or {}
    if constructor != 'DefaultOptimWrapperConstructor':
        note(
            'optim_wrapper.constructor',
            f'{constructor} knows the old backbone by the names of its layers',
        )
        del wrapper['constructor']
        options = {}
    keys = dict(options.get('custom_keys') or {})
    for key in [key for key in keys if key.startswith('backbone.')]:
        note('optim_wrapper.paramwise_cfg.custom_keys', f'{key!r} names a part of the old backbone')
        del keys[key]
    if 'bias_lr_mult' in options:
        note(
            'optim_wrapper.paramwise_cfg.bias_lr_mult',
            'is a habit of SGD and would also reach the biases of the backbone',
        )
    options = {key: value for key, value in options.items() if key != 'bias_lr_mult'}
    free = _no_decay(net)
    backbone = [f'backbone.{name}' for name, _ in net.named_parameters()]
    habit = keys.get('backbone')
    if habit is None:
        # Norms of torch are known to norm_decay_mult, wherever they are.
        free = {name for name in free if not _is_torch_norm(net, name)}
    others = [name for name in _parameters(model) if not name.startswith('backbone.')]
    decaying = [name for name in backbone if name[len('backbone.') :] not in free] + others
    for key in _covering_keys(
        sorted(f'backbone.{name}' for name in free),
        decaying,
        longer_than='backbone' if habit is not None else '',
    ):
        # The longest key that is part of a name counts, and it alone.
        keys[key] = {**(habit or {}), 'decay_mult': 0.0}
    wrapper['paramwise_cfg'] = {
        **options,
        'norm_decay_mult': 0.0,
        **({'custom_keys': keys} if keys else {}),
    }


def _no_decay(net: SLABBackbone) -> set:
    """Return names of the parameters that take no weight decay."""
    free = {f'net.{name}' for name in net.net.no_weight_decay()}
    for prefix, module in net.named_modules():
        if isinstance(module, (*_NORMS, PRepBN)) or hasattr(module, 'eta'):
            free |= {f'{prefix}.{name}' for name, _ in module.named_parameters()}
    return free


def _is_torch_norm(net: nn.Module, parameter: str) -> bool:
    return isinstance(net.get_submodule(parameter.rpartition('.')[0]), _NORMS)


def _parameters(model: dict[str, Any]) -> list[str]:
    """Return the names of the model's parameters; none are drawn."""
    with BASE_MODELS.switch_scope_and_registry('mmdet'), torch.random.fork_rng(devices=[]):
        return [
            name
            for name, _ in revert_sync_batchnorm(
                MODELS.build(ConfigDict(deepcopy(model)))
            ).named_parameters()
        ]


def _covering_keys(names: list[str], others: list[str], longer_than: str) -> list[str]:
    """Return a few parts of ``names`` such that every name holds one, and none of ``others`` does.

    Every key is longer than ``longer_than``, because of the keys that fit the longest counts.
    """
    candidates = {key for name in names for key in _parts(name) if len(key) > len(longer_than)}
    candidates = {
        key: {name for name in names if key in name}
        for key in sorted(candidates)
        if not any(key in other for other in others)
    }
    keys: list[str] = []
    left = set(names)
    while left:
        key = max(candidates, key=lambda key: (len(candidates[key] & left), -len(key)))
        keys.append(key)
        left -= candidates[key]
    return keys


def _parts(name: str) -> list[str]:
    """Return runs of whole parts of a parameter's name, also without the number that they end
    with."""
    words = name.split('.')
    runs = [
        ('.' if start else '') + '.'.join(words[start:end])
        for end in range(1, len(words) + 1)
        for start in range(end)
    ]
    return [
        *runs,
        *(
            run.rstrip('0123456789')
            for run in runs
            if run[-1].isdigit() and run[-2] not in '.0123456789'
        ),
    ]


def _adapt_schedule(cfg: dict[str, Any], scale: float, note: Note) -> None:
    """Scale the rates that schedulers name themselves."""
    schedulers = cfg.get('param_scheduler') or []
    for index, scheduler in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        if scale != 1 and scheduler.get('eta_min'):
            scheduler['eta_min'] *= scale
            note(f'param_scheduler.{index}.eta_min', 'scaled like the learning rate')


def _adapt_hooks(cfg: dict[str, Any], net: SLABBackbone, note: Note) -> None:
    """Add the hooks of this package, and checkpoints that are written whole or not at all."""
    hooks: list[dict[str, Any]] = list(cfg.get('custom_hooks') or [])
    types = {hook.get('type') for hook in hooks}
    if prepbn_modules(net) and 'PRepBNHook' not in types:
        hooks.append(dict(type='PRepBNHook', schedule='linear', end=0.8))
    if 'RandomStateHook' not in types:
        hooks.append(dict(type='RandomStateHook'))
        note('custom_hooks', 'RandomStateHook lets a resumed training repeat the uninterrupted one')
    cfg['custom_hooks'] = hooks

    default = cfg.get('default_hooks') or {}
    # Where none is named mmengine has this one; None means that nothing is saved.
    saving = default.get('checkpoint', dict(type='CheckpointHook', interval=1))
    if saving and not _has_backend(saving):
        saving = {**saving, 'backend_args': dict(backend='whole')}
        cfg['default_hooks'] = {**default, 'checkpoint': saving}
        note(
            'default_hooks.checkpoint.backend_args',
            'a checkpoint gets its name when all of it is written, a killed training leaves no part',
        )


def _has_backend(saving: dict[str, Any]) -> bool:
    """Whether a checkpoint hook says, by its address or otherwise, what its files are written by."""
    return bool(
        '://' in str(saving.get('out_dir'))
        or saving.get('backend_args')
        or saving.get('file_client_args')
    )
