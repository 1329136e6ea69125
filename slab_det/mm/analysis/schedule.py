"""Learning rate and PRepBN ratio of a whole training, without training."""

import tempfile
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from slab_det.errors import InputError
from slab_det.layers import prepbn_modules
from slab_det.mm.config_walk import kind_of
from slab_det.mm.optim import build_plain


@dataclass
class Schedule:
    """What each training iteration runs with.

    Attributes:
        rates: learning rates, float (iterations,), by the groups of parameters that differ in
            theirs; the keys are the groups' rates in the config.
        parameters: number of parameters in each group of ``rates``.
        ratio: PRepBN's ratio, float (iterations,); None if the config has no PRepBNHook.
        epoch_length: iterations of an epoch, or None if the loop counts iterations.
        accumulation: iterations for each step of the optimizer.
        batch_size: images per iteration, of all processes.
    """

    rates: dict[float, np.ndarray]
    parameters: dict[float, int]
    ratio: np.ndarray | None
    epoch_length: int | None
    accumulation: int
    batch_size: int


def training_schedule(cfg, model: nn.Module, num_images: int, processes: int = 1) -> Schedule:
    """Run the config's parameter schedulers and its PRepBNHook over the training that it describes.

    mmengine's Runner builds loop, data loader and schedulers, and its ParamSchedulerHook steps
    them; nothing is trained and no file is left behind.

    Args:
        cfg: a whole config; ``auto_scale_lr.enable`` is followed.
        model: its model, which says where the ratio starts and which rate parameters have.
        num_images: size of the training set after its filters.
        processes: how many train together; each sees its share of the set.

    Raises:
        InputError: the optimizer or the data loader cannot be built without data, several
            optimizers, or what PRepBNHook raises.
    """
    wrapper, counts = _optimizer_of(cfg, model)
    loader = dict(cfg.train_dataloader)
    # The sampler of one of several processes has this many images, its share rounded up.
    loader.update(
        dataset=range(-(-num_images // processes)),  # its length is all that matters
        num_workers=0,
        persistent_workers=False,
        pin_memory=False,
    )
    loader.pop('prefetch_factor', None)
    if kind_of(loader.get('sampler') or {}) not in ('DefaultSampler', 'InfiniteSampler', ''):
        # Others choose among the sources or classes of a data set, not how many images there are.
        loader['sampler'] = dict(type='DefaultSampler')
    hooks = [hook for hook in cfg.get('custom_hooks') or () if kind_of(hook) == 'PRepBNHook']
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            model,
            folder,
            train_dataloader=loader,
            train_cfg=dict(cfg.train_cfg),
            optim_wrapper=wrapper,
            param_scheduler=cfg.get('param_scheduler'),
            custom_hooks=hooks,
            default_hooks=dict.fromkeys(_DEFAULT_HOOKS),
            log_level='ERROR',
            default_scope=cfg.get('default_scope', 'mmdet'),
            randomness=dict(seed=0),
        )
        runner._world_size = processes  # what scale_lr multiplies the batch size by
        loop = runner.train_loop
        runner.scale_lr(runner.optim_wrapper, cfg.get('auto_scale_lr'))
        if runner.param_schedulers is not None:
            runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        hook = next((one for one in runner.hooks if type(one).__name__ == 'PRepBNHook'), None)
        if hook is not None:
            hook.before_train(runner)
        stepper = ParamSchedulerHook()
        length = loop.max_iters // loop.max_epochs
        groups = runner.optim_wrapper.optimizer.param_groups
        rates = np.empty((len(groups), loop.max_iters))
        for iteration in range(loop.max_iters):
            rates[:, iteration] = [group['lr'] for group in groups]
            stepper.after_train_iter(runner, iteration)
            if (iteration + 1) % length == 0:
                stepper.after_train_epoch(runner)
        ratio = None
        if hook is not None and prepbn_modules(model):
            ratio = np.array([hook.ratio_at(iteration) for iteration in range(loop.max_iters)])
    return Schedule(
        dict(zip(counts, rates)),
        counts,
        ratio,
        length if isinstance(loop, EpochBasedTrainLoop) else None,
        cfg.optim_wrapper.get('accumulative_counts', 1),
        processes * (loader.get('batch_size') or 1),
    )


_DEFAULT_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)


def _optimizer_of(cfg, model: nn.Module) -> tuple[OptimWrapper, dict[float, int]]:
    """Return an optimizer with one parameter for each learning rate of the config, and the number
    of the model's parameters with each of these rates, in descending order."""
    if 'optimizer' not in cfg.optim_wrapper:
        raise InputError(
            'optim_wrapper has no optimizer: a schedule of several optimizers cannot be drawn.'
        )
    found: Counter[float] = Counter()
    for group in build_plain(model, cfg.optim_wrapper).optimizer.param_groups:
        found[group['lr']] += sum(p.numel() for p in group['params'] if p.requires_grad)
    counts = {rate: found[rate] for rate in sorted(found, reverse=True) if found[rate]}
    groups: list[dict] = [dict(params=[nn.Parameter(torch.zeros(1))], lr=rate) for rate in counts]
    return OptimWrapper(torch.optim.SGD(groups, lr=max(counts))), counts
