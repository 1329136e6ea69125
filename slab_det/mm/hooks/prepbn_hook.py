"""Hook that moves the ratio of PRepBN during training."""

import math

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from slab_det.errors import InputError
from slab_det.layers import PRepBN, PRepBNScheduler, prepbn_modules
from slab_det.layers.ratio_schedule import check_order, check_schedule
from slab_det.mm.model import averaged_models, unwrap
from slab_det.values import check_count, check_flag, is_count

from .training_points import UNIT, check_only_one, to_iterations

STATE_KEY = 'prepbn_hook'
#: A running variance that has grown by more than this since the first look is running away.
VARIANCE_GROWTH = 1000.0


@HOOKS.register_module()
class PRepBNHook(Hook):
    """Drives the ratio ``g`` of every PRepBN of the model, once per training iteration.

    ``PRepBN(x) = g * LN(x) + (1 - g) * RepBN(x)``; ``g`` goes from the value that the model
    brings along to ``end_ratio`` between ``begin`` and ``end``, see
    :func:`~slab_det.layers.scheduled_ratio`; a :class:`~slab_det.layers.PRepBNScheduler` sets
    it. It depends on nothing but the
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
        allow_missing: do nothing if the model has no PRepBN, instead of raising.
        check_interval: look for running variances that run away every so many iterations
            (which waits for the GPU once); 0 never looks.

    A schedule that cannot end well, a ratio that jumps at a resumption, statistics that stay those
    of a new BatchNorm while the ratio falls, a loss that is not finite and a running variance that
    runs away are warned of once each; docs/training.md says what to do.

    Raises:
        InputError: an argument is out of its range, ``end`` does not lie after ``begin``, the
            model has no PRepBN, its PRepBN modules disagree about the ratio, there is a second
            such hook, or the length of training is needed and not known.
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
        check_schedule(schedule, start_ratio, end_ratio, begin, end, num_steps, UNIT)
        check_flag('by_epoch', by_epoch)
        check_flag('allow_missing', allow_missing)
        check_count('check_interval', check_interval)
        self.schedule = schedule
        self.start_ratio = start_ratio
        self.end_ratio = float(end_ratio)
        self.begin = begin
        self.end = end
        self.by_epoch = by_epoch
        self.num_steps = num_steps
        self.allow_missing = allow_missing
        self.check_interval = check_interval
        #: What sets the ratio, from the beginning of training; None if the model has no PRepBN.
        self.scheduler: PRepBNScheduler | None = None
        self._loaded_state: dict | None = None
        self._averaged: list[PRepBN] = []
        self._first_variances: list[float] | None = None
        self._frozen_checked = False
        self._warned: set[str] = set()

    def ratio_at(self, iteration: int) -> float:
        """Return the ratio of training iteration ``iteration`` (from 0), once training began."""
        return self.scheduler.ratio_at(iteration)

    # ---------------------------------------------------------------- checkpoints

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self.scheduler is not None:
            checkpoint[STATE_KEY] = dict(
                start_ratio=self.scheduler.start_ratio, first_variances=self._first_variances
            )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        # Whether this is a resumption shows when training begins. The weights are loaded
        # after this call.
        self._loaded_state = checkpoint.get(STATE_KEY)

    # ---------------------------------------------------------------- training

    def before_train(self, runner) -> None:
        check_only_one(self, runner)
        model = unwrap(runner.model)
        if not prepbn_modules(model):
            if not self.allow_missing:
                raise InputError(
                    f'PRepBNHook found no PRepBN in {type(model).__name__}: '
                    "build it with norm_cfg=dict(type='PRepBN'), remove the hook, or set "
                    'allow_missing=True.'
                )
            runner.logger.info('PRepBNHook: the model has no PRepBN, nothing to do.')
            return
        resumed = self._loaded_state if runner.iter > 0 else None
        self._averaged = prepbn_modules(nn.ModuleList(averaged_models(runner)))
        self._first_variances = resumed and resumed.get('first_variances')
        self._frozen_checked = False
        self.scheduler = scheduler = self._schedule_of(runner, model, resumed)
        self._warn_about_schedule(runner)
        if resumed:
            self._warn_about_resumption(runner)
        runner.logger.info(
            f'PRepBNHook: ratio of {len(scheduler.modules)} PRepBN from '
            f'{scheduler.start_ratio:g} to {self.end_ratio:g}, {self.schedule}, iterations '
            f'{scheduler.begin_iter:g} to {scheduler.end_iter:g}.'
        )

    def _schedule_of(self, runner, model: nn.Module, resumed: dict | None) -> PRepBNScheduler:
        begin = to_iterations('begin', self.begin, self.by_epoch, runner)
        end = to_iterations('end', self.end, self.by_epoch, runner)
        check_order(
            begin, end, f'{self.begin!r} (iteration {begin:g})', f'{self.end!r} (iteration {end:g})'
        )
        if resumed is None and self.start_ratio is None and runner.iter > begin:
            raise InputError(
                'start_ratio=None: the run resumes behind begin and its checkpoint does not '
                'say which ratio it started from: set start_ratio.'
            )
        return PRepBNScheduler(
            model,
            runner.max_iters,
            self.schedule,
            begin if is_count(self.begin) else self.begin,
            end if is_count(self.end) else self.end,
            float(resumed['start_ratio']) if resumed else self.start_ratio,
            self.end_ratio,
            self.num_steps,
            last_iter=None,  # the model keeps its ratio until the first iteration
        )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if self.scheduler is not None:
            ratio = self.scheduler.set_iteration(runner.iter)
            runner.message_hub.update_scalar('train/prepbn_ratio', ratio)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.scheduler is None:
            return
        # An average over ratios is the ratio of no network: take the current one.
        for norm in self._averaged:
            norm.set_ratio(self.scheduler.get_last_ratio())
        self._check_losses(runner, outputs)
        self._check_frozen(runner)
        # The first look is after one iteration: a running variance is then at least ``momentum`` of
        # that of the first batch, so that growth from there on is not the settling of the average.
        first = self.check_interval and self._first_variances is None
        if first or self.every_n_train_iters(runner, self.check_interval):
            self._check_variances(runner)

    def after_val_epoch(self, runner, metrics=None) -> None:
        # EMAHook has swapped the weights back through ``.data``, which a GPU's next forward pass
        # does not see.
        for norm in prepbn_modules(runner.model):
            norm.sync_ratio()

    after_test_epoch = after_val_epoch

    # ---------------------------------------------------------------- warnings

    def _warn_about_schedule(self, runner) -> None:
        scheduler = self.scheduler
        if scheduler.start_ratio == self.end_ratio:
            return
        last = scheduler.ratio_at(runner.max_iters - 1)
        if last != self.end_ratio:
            self._warn(
                runner,
                'end',
                f'end={self.end!r} lies at iteration {scheduler.end_iter:g} but '
                f'training ends at {runner.max_iters}, where the ratio is {last:.3g} and not '
                f'{self.end_ratio:g}: lower end (0.8 is four fifths of training).',
            )
        warmup = _warmup_end(runner)
        if scheduler.end_iter <= warmup:
            self._warn(
                runner,
                'warmup',
                f'the ratio arrives at iteration {scheduler.end_iter:g}, before the learning '
                f'rate has warmed up at {warmup:g}: raise end (0.8 is four fifths of '
                'training) or shorten the warm-up.',
            )

    def _warn_about_resumption(self, runner) -> None:
        start = self.scheduler.start_ratio
        if self.start_ratio not in (None, start):
            self._warn(
                runner,
                'start_ratio',
                f'start_ratio={self.start_ratio:g} is not used: the run resumes one '
                f'whose ratio started from {start:g}; load the checkpoint with load_from instead '
                'of resuming to begin anew, or remove start_ratio.',
            )
        ratio = next(iter(self.scheduler.modules.values())).sync_ratio()
        if abs(ratio - self.ratio_at(runner.iter - 1)) > 1e-4:
            self._warn(
                runner,
                'jump',
                f'the ratio jumps from {ratio:.3g} to {self.ratio_at(runner.iter):.3g}: the '
                'checkpoint was trained with another length of training or other settings of '
                'PRepBNHook; give begin and end as iterations (by_epoch=False) that fit the '
                'training so far, or start a new training with load_from.',
            )

    def _check_frozen(self, runner) -> None:
        """Look for frozen norms that were never fed, once, as soon as the ratio begins to fall."""
        if self._frozen_checked or self.scheduler.get_last_ratio() >= self.scheduler.start_ratio:
            return
        self._frozen_checked = True
        norms = self.scheduler.modules
        frozen = [
            name for name, norm in norms.items() if not norm.repbn.bn.training and _is_new(norm)
        ]
        copies = _copies(unwrap(runner.model), norms, frozen)
        if copies:
            self._warn(
                runner,
                'copy',
                f'the statistics of {len(copies)} PRepBN, such as {copies[0]}, stay at the mean 0 '
                'and variance 1 of a new BatchNorm while the ratio falls, since they belong to a '
                'copy that gets the weights of another part of the model and not its buffers: '
                'copy these too (skip_buffer=False of MeanTeacherHook).',
            )
        frozen = [name for name in frozen if name not in copies]
        if frozen:
            self._warn(
                runner,
                'frozen',
                f'the statistics of {len(frozen)} PRepBN, such as {frozen[0]}, '
                'are frozen at the mean 0 and variance 1 of a new BatchNorm while the ratio '
                'falls: set norm_eval=False and frozen_stages=-1 in the backbone, or begin from a '
                'checkpoint whose ratio is 0.',
            )

    def _check_losses(self, runner, outputs: dict | None) -> None:
        # RuntimeInfoHook has already brought the losses to the CPU.
        scalars = runner.message_hub.log_scalars
        for name in outputs if isinstance(outputs, dict) else ():
            scalar = scalars.get(f'train/{name}') if 'loss' in name else None
            if scalar is not None and not math.isfinite(scalar.current()):
                self._warn(
                    runner,
                    'nan',
                    f'{name} is {scalar.current()} at iteration {runner.iter} with the '
                    f'ratio at {self.scheduler.get_last_ratio():.3g}: {self._advice()}',
                )

    def _check_variances(self, runner) -> None:
        norms = self.scheduler.modules
        variances = torch.stack(
            [norm.repbn.bn.running_var.detach().max() for norm in norms.values()]
        ).tolist()
        if self._first_variances is None:
            self._first_variances = variances
        for name, first, now in zip(norms, self._first_variances, variances):
            if not math.isfinite(now) or now > VARIANCE_GROWTH * first > 0:
                self._warn(
                    runner,
                    'variance',
                    f'the running variance of {name} went from '
                    f'{first:.3g} to {now:.3g} by iteration {runner.iter} with the ratio at '
                    f'{self.scheduler.get_last_ratio():.3g}: {self._advice()}',
                )

    def _advice(self) -> str:
        return (
            'let the ratio fall more slowly (PRepBNHook end=0.8 is four fifths of training, '
            f'now it falls from iteration {self.scheduler.begin_iter:g} to '
            f'{self.scheduler.end_iter:g}), clip gradients, or lower the learning rate.'
        )

    def _warn(self, runner, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            runner.logger.warning(f'PRepBNHook: {message}')


def _is_new(norm: PRepBN) -> bool:
    bn = norm.repbn.bn
    return not bn.running_mean.any() and bool((bn.running_var == 1).all())


def _copies(model: nn.Module, norms: dict[str, PRepBN], names: list[str]) -> list[str]:
    """Return those of ``names`` that lie in a part of ``model`` which is in evaluation mode as a
    whole, as a teacher is, and have their like in another part that is trained."""
    trained = {name.partition('.')[2] for name, norm in norms.items() if norm.repbn.bn.training}
    split = [(name, *name.partition('.')[::2]) for name in names]
    return [
        name
        for name, part, rest in split
        if rest and rest in trained and not model.get_submodule(part).training
    ]


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
    # One that outlasts training is a constant factor, not a warm-up.
    return max(end for end in ends if end < runner.max_iters)
