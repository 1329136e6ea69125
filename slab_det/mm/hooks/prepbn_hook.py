"""Hook that moves the ratio of PRepBN during training."""

import math
from numbers import Real

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from slab_det.layers import PRepBN, prepbn_modules, scheduled_ratio
from slab_det.layers.ratio_schedule import SCHEDULES

from .training_points import check_flag, check_only_one, check_point, is_count, to_iterations

STATE_KEY = 'prepbn_hook'
#: A running variance that has grown by more than this since the first look is running away.
VARIANCE_GROWTH = 1000.0


@HOOKS.register_module()
class PRepBNHook(Hook):
    """Drives the ratio ``g`` of every PRepBN of the model, once per training iteration.

    ``PRepBN(x) = g * LN(x) + (1 - g) * RepBN(x)``; ``g`` goes from the value that the model
    brings along to ``end_ratio`` between ``begin`` and ``end``, see
    :func:`~slab_det.layers.scheduled_ratio`. It depends on nothing but the
    iteration, so all processes agree, and gradient accumulation, activation checkpointing or
    several forward passes do not move it. Each iteration's ratio is logged as
    ``prepbn_ratio``. A resumed run goes on along the same line: the value that the ratio
    started from is in the checkpoint. Averaged models (``EMAHook``) get the current ratio
    instead of an average of ratios.

    ``begin`` and ``end`` say where in training they lie in one of two ways:

    - an ``int`` counts epochs, or iterations where ``by_epoch=False``, as in mmengine's
      parameter schedulers (the ratio moves at every iteration in both cases);
    - a ``float`` from 0.0 to 1.0 is a fraction of the whole training. Mind that ``end=1`` is
      the end of the first epoch, ``end=1.0`` the end of training, where the last iteration
      still has a trace of LayerNorm that cannot be re-parameterized; a warning says so.

    Args:
        schedule: ``'linear'`` (the paper's), ``'cosine'`` or ``'step'``.
        start_ratio: ratio until ``begin``. Default: the one in the model, which is 1 for new
            weights and LayerNorm checkpoints and 0 for finished PRepBN checkpoints.
        end_ratio: ratio from ``end`` on.
        begin: where the ratio starts to move.
        end: where it arrives. The default, four fifths of training, helped users of the
            paper's code who met NaN with shorter schedules.
        by_epoch: whether whole numbers count epochs or iterations.
        num_steps: number of equal drops of ``schedule='step'``.
        allow_missing: do nothing where the model has no PRepBN, instead of raising.
        check_interval: look for running variances that run away every so many iterations
            (which waits for the GPU once); 0 never looks.

    A schedule that cannot end well, a ratio that jumps at a resumption, statistics that stay those of
    a new BatchNorm while the ratio falls, a loss that is not finite and a running variance that
    runs away are warned of once each; docs/training.md says what to do.

    Raises:
        ValueError: an argument is out of its range, ``end`` does not lie after ``begin``, the
            model has no PRepBN, its PRepBN modules disagree about the ratio, there is a second such hook,
            or the length of training is needed and not known.
    """

    # After EMAHook (NORMAL) has averaged or swapped, before CheckpointHook (VERY_LOW) saves.
    priority = 'LOW'

    def __init__(
        self,
        schedule: str = 'linear',
        start_ratio: float | None = None,
        end_ratio: float = 0.0,
        begin: int | float = 0,
        end: int | float = 0.8,
        by_epoch: bool = True,
        num_steps: int = 5,
        allow_missing: bool = False,
        check_interval: int = 50,
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(
                f'schedule={schedule!r} is unknown: use one of {", ".join(SCHEDULES)}.'
            )
        for name, value in (('start_ratio', start_ratio), ('end_ratio', end_ratio)):
            if value is None and name == 'start_ratio':
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
                raise ValueError(f'{name}={value!r} is no ratio: give a number from 0 to 1.')
        for name, value in (('begin', begin), ('end', end)):
            check_point(name, value)
        if is_count(begin) == is_count(end) and end <= begin:
            raise ValueError(
                f'end={end} does not lie after begin={begin}: raise end or lower begin.'
            )
        check_flag('by_epoch', by_epoch)
        check_flag('allow_missing', allow_missing)
        if not is_count(num_steps) or num_steps < 1:
            raise ValueError(f'num_steps={num_steps!r} must be a whole number of at least 1.')
        if not is_count(check_interval) or check_interval < 0:
            raise ValueError(
                f'check_interval={check_interval!r} must be a whole number of '
                'iterations, or 0 to turn the checks off.'
            )
        self.schedule = schedule
        self.start_ratio = start_ratio
        self.end_ratio = float(end_ratio)
        self.begin = begin
        self.end = end
        self.by_epoch = by_epoch
        self.num_steps = num_steps
        self.allow_missing = allow_missing
        self.check_interval = check_interval

        self._loaded_state: dict | None = None
        self._modules: list[PRepBN] = []
        self._averaged: list[PRepBN] = []
        self._start: float | None = None
        self._ratio: float | None = None
        self._first_variances: list[float] | None = None
        self._frozen_checked = False
        self._warned = set()

    def ratio_at(self, iteration: int) -> float:
        """The ratio of training iteration ``iteration`` (from 0); known once training began."""
        return scheduled_ratio(
            iteration,
            self._begin_iter,
            self._end_iter,
            self._start,
            self.end_ratio,
            self.schedule,
            self.num_steps,
        )

    # ---------------------------------------------------------------- checkpoints

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._start is not None:
            checkpoint[STATE_KEY] = dict(
                start_ratio=self._start, first_variances=self._first_variances
            )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        # Whether this is a resumption shows when training begins. The weights are loaded
        # after this call.
        self._loaded_state = checkpoint.get(STATE_KEY)

    # ---------------------------------------------------------------- training

    def before_train(self, runner) -> None:
        check_only_one(self, runner)
        self._modules = prepbn_modules(_unwrap(runner.model))
        if not self._modules:
            if not self.allow_missing:
                raise ValueError(
                    f'PRepBNHook found no PRepBN in {type(_unwrap(runner.model)).__name__}: '
                    "build it with norm_cfg=dict(type='PRepBN'), remove the hook, or set "
                    'allow_missing=True.'
                )
            runner.logger.info('PRepBNHook: the model has no PRepBN, nothing to do.')
            return
        self._averaged = _averaged_modules(runner)
        self._begin_iter = to_iterations('begin', self.begin, self.by_epoch, runner)
        self._end_iter = to_iterations('end', self.end, self.by_epoch, runner)
        if self._end_iter <= self._begin_iter:
            raise ValueError(
                f'end={self.end!r} (iteration {self._end_iter:g}) does not lie after '
                f'begin={self.begin!r} (iteration {self._begin_iter:g}): raise end or lower '
                'begin.'
            )
        resumed = self._loaded_state if runner.iter > 0 else None
        self._start = self._find_start(runner, resumed)
        self._first_variances = resumed and resumed.get('first_variances')
        self._frozen_checked = False
        self._warn_about_schedule(runner)
        if resumed:
            self._warn_about_resumption(runner, resumed)
        runner.logger.info(
            f'PRepBNHook: ratio of {len(self._modules)} PRepBN from {self._start:g} to '
            f'{self.end_ratio:g}, {self.schedule}, iterations {self._begin_iter:g} to '
            f'{self._end_iter:g}.'
        )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if not self._modules:
            return
        self._ratio = self.ratio_at(runner.iter)
        self._set(self._modules)
        runner.message_hub.update_scalar('train/prepbn_ratio', self._ratio)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not self._modules:
            return
        # An average over ratios is the ratio of no network: take the current one.
        self._set(self._averaged)
        self._check_losses(runner, outputs)
        self._check_frozen(runner)
        # The first look is after one iteration: a running variance is then at least ``momentum`` of
        # that of the first batch, so that growth from there on is not the settling of the average.
        first = self.check_interval and self._first_variances is None
        if first or self.every_n_train_iters(runner, self.check_interval):
            self._check_variances(runner)

    def after_train(self, runner) -> None:
        # What is loaded from here on brings its own ratio.
        self._ratio = None

    # ---------------------------------------------------------------- evaluation

    def before_val_epoch(self, runner) -> None:
        self._follow(runner)

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._follow(runner)

    def before_test_epoch(self, runner) -> None:
        self._follow(runner)

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._follow(runner)

    def _follow(self, runner) -> None:
        """Make the modules run at the right ratio after EMAHook swapped the weights in place."""
        modules = prepbn_modules(_unwrap(runner.model))
        if self._ratio is None:
            for module in modules:
                module.sync_ratio()
        else:
            self._set(modules)

    def _set(self, modules: list[PRepBN]) -> None:
        for module in modules:
            module.set_ratio(self._ratio)

    # ---------------------------------------------------------------- beginning

    def _find_start(self, runner, resumed: dict | None) -> float:
        if resumed:
            return float(resumed['start_ratio'])
        if self.start_ratio is not None:
            return float(self.start_ratio)
        if runner.iter > self._begin_iter:
            raise ValueError(
                'start_ratio=None: the run resumes behind begin and its checkpoint does not '
                'say which ratio it started from: set start_ratio.'
            )
        ratios = [module.sync_ratio() for module in self._modules]
        if min(ratios) != max(ratios):
            raise ValueError(
                f'start_ratio=None: the PRepBN modules of the model start from different '
                f'ratios, {min(ratios):g} to {max(ratios):g}: set start_ratio.'
            )
        return ratios[0]

    # ---------------------------------------------------------------- warnings

    def _warn_about_schedule(self, runner) -> None:
        if self._start == self.end_ratio:
            return
        last = self.ratio_at(runner.max_iters - 1)
        if last != self.end_ratio:
            self._warn(
                runner,
                'end',
                f'end={self.end!r} lies at iteration {self._end_iter:g} but '
                f'training ends at {runner.max_iters}, where the ratio is {last:.3g} and not '
                f'{self.end_ratio:g}: lower end (0.8 is four fifths of training).',
            )
        warmup = _warmup_end(runner)
        if self._end_iter <= warmup:
            self._warn(
                runner,
                'warmup',
                f'the ratio arrives at iteration {self._end_iter:g}, before the learning '
                f'rate has warmed up at {warmup:g}: raise end (0.8 is four fifths of '
                'training) or shorten the warm-up.',
            )

    def _warn_about_resumption(self, runner, resumed: dict) -> None:
        if self.start_ratio is not None and self.start_ratio != self._start:
            self._warn(
                runner,
                'start_ratio',
                f'start_ratio={self.start_ratio:g} is not used: the run resumes one '
                f'whose ratio started from {self._start:g}; load the checkpoint with load_from instead of '
                'resuming to begin anew, or remove start_ratio.',
            )
        ratio, expected = self._modules[0].sync_ratio(), self.ratio_at(runner.iter - 1)
        if abs(ratio - expected) > 1e-4:
            self._warn(
                runner,
                'jump',
                f'the ratio jumps from {ratio:.3g} to {self.ratio_at(runner.iter):.3g}: the '
                'checkpoint was trained with another length of training or other settings of PRepBNHook; '
                'give begin and end as iterations (by_epoch=False) that fit the training so far, or '
                'start a new training with load_from.',
            )

    def _check_frozen(self, runner) -> None:
        """Look once, as soon as the ratio has begun to fall, for frozen norms that were never fed."""
        if self._frozen_checked or self._ratio >= self._start:
            return
        self._frozen_checked = True
        frozen = [
            module for module in self._modules if not module.repbn.bn.training and _is_new(module)
        ]
        if frozen:
            self._warn(
                runner,
                'frozen',
                f'the statistics of {len(frozen)} PRepBN, such as {_name_of(frozen[0], runner)}, '
                'are frozen at the mean 0 and variance 1 of a new BatchNorm while the ratio falls: '
                'set norm_eval=False and frozen_stages=-1 in the backbone, or begin from a checkpoint whose ratio is 0.',
            )

    def _check_losses(self, runner, outputs: dict | None) -> None:
        # RuntimeInfoHook has already brought the losses to the CPU.
        if 'nan' in self._warned or not isinstance(outputs, dict):
            return
        scalars = runner.message_hub.log_scalars
        for name in outputs:
            key = f'train/{name}'
            if 'loss' not in name or key not in scalars:
                continue
            value = scalars[key].current()
            if not math.isfinite(value):
                self._warn(
                    runner,
                    'nan',
                    f'{name} is {value} at iteration {runner.iter} with the '
                    f'ratio at {self._ratio:.3g}: {self._advice()}',
                )
                return

    def _check_variances(self, runner) -> None:
        variances = torch.stack(
            [module.repbn.bn.running_var.detach().max() for module in self._modules]
        ).tolist()
        if self._first_variances is None:
            self._first_variances = variances
        for index, (first, now) in enumerate(zip(self._first_variances, variances)):
            if not math.isfinite(now) or now > VARIANCE_GROWTH * first > 0:
                name = _name_of(self._modules[index], runner)
                self._warn(
                    runner,
                    'variance',
                    f'the running variance of {name} went from '
                    f'{first:.3g} to {now:.3g} by iteration {runner.iter} with the ratio at '
                    f'{self._ratio:.3g}: {self._advice()}',
                )
                return

    def _advice(self) -> str:
        return (
            'let the ratio fall more slowly (PRepBNHook end=0.8 is four fifths of training, '
            f'now it falls from iteration {self._begin_iter:g} to {self._end_iter:g}), clip '
            'gradients, or lower the learning rate.'
        )

    def _warn(self, runner, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            runner.logger.warning(f'PRepBNHook: {message}')


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _is_new(module: PRepBN) -> bool:
    bn = module.repbn.bn
    return not bn.running_mean.any() and bool((bn.running_var == 1).all())


def _averaged_modules(runner) -> list[PRepBN]:
    """PRepBN modules of the averaged models that hooks such as EMAHook hold."""
    models = {
        id(value): value
        for hook in runner.hooks
        for value in vars(hook).values()
        if isinstance(value, BaseAveragedModel)
    }
    return [module for model in models.values() for module in prepbn_modules(model)]


def _name_of(module: nn.Module, runner) -> str:
    return next(name for name, other in _unwrap(runner.model).named_modules() if other is module)


def _warmup_end(runner) -> float:
    """Iteration at which the last learning rate warm-up ends; 0 without one."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [scheduler for group in schedulers.values() for scheduler in group]
    ends = [0]
    for scheduler in schedulers:
        first = getattr(scheduler, 'start_factor', getattr(scheduler, 'factor', None))
        last = getattr(scheduler, 'end_factor', 1.0)
        rises = first is not None and first < last
        if scheduler.param_name == 'lr' and (rises or 'Warmup' in type(scheduler).__name__):
            length = len(runner.train_dataloader) if scheduler.by_epoch else 1
            ends.append(scheduler.end * length)
    # One that outlasts training is a constant factor and no warm-up.
    return max(end for end in ends if end < runner.max_iters)
