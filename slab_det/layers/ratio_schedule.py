"""The ratio of PRepBN as a function of the training iteration, and the scheduler that sets it."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from slab_det.errors import InputError
from slab_det.values import (
    check_choice,
    check_count,
    check_fraction,
    check_point,
    check_type,
    is_count,
)

from .norms import PRepBN

SCHEDULES = ('linear', 'cosine', 'step')


def scheduled_ratio(
    iteration: float,
    begin: float,
    end: float,
    start_ratio: float = 1.0,
    end_ratio: float = 0.0,
    schedule: str = 'linear',
    num_steps: int = 5,
) -> float:
    r"""Return the ratio :math:`g` at which a training iteration runs.

    With the progress :math:`p = (t - b) / (e - b)`, held at 0 before iteration ``b`` and at 1
    from iteration ``e`` on, :math:`g = g_e + (g_s - g_e) \, f(p)`, where

    - ``'linear'``: :math:`f = 1 - p`, the paper's decay (section 3.2 of arXiv 2405.11582, where
      ``b = 0`` and ``e`` is called ``T``);
    - ``'cosine'``: :math:`f = (1 + \cos \pi p) / 2`, slow at both ends;
    - ``'step'``: :math:`f = 1 - \lfloor n p \rfloor / n`, ``n = num_steps`` equal drops, the
      last of them at ``e``.

    Args:
        iteration: ``t``, counted from 0.
        begin: ``b``, the last iteration that runs at ``start_ratio`` (need not be whole).
        end: ``e > b``, the first iteration that runs at ``end_ratio`` (need not be whole).
        start_ratio: ``g_s``.
        end_ratio: ``g_e``.
        schedule: one of ``'linear'``, ``'cosine'`` and ``'step'``.
        num_steps: ``n`` of ``'step'``.

    Raises:
        InputError: the schedule is unknown, or ``end`` does not lie after ``begin``.
    """
    check_choice('schedule', schedule, SCHEDULES)
    check_order(begin, end)
    if iteration <= begin:
        return float(start_ratio)
    if iteration >= end:
        return float(end_ratio)
    progress = (iteration - begin) / (end - begin)
    if schedule == 'linear':
        remaining = 1 - progress
    elif schedule == 'cosine':
        remaining = (1 + math.cos(math.pi * progress)) / 2
    else:
        # One division, so that a drop that falls on a whole iteration is not rounded past it.
        remaining = 1 - math.floor(num_steps * (iteration - begin) / (end - begin)) / num_steps
    return end_ratio + (start_ratio - end_ratio) * remaining


def check_schedule(
    schedule: str,
    start_ratio: float | None,
    end_ratio: float,
    begin: int | float,
    end: int | float,
    num_steps: int,
    unit: str = 'iterations',
) -> None:
    """Check the settings of a schedule as far as the length of training does not matter.

    Args:
        unit: what a whole number counts, for messages; the others as in :class:`PRepBNScheduler`.

    Raises:
        InputError: one of them is out of its range, or ``end`` does not lie after ``begin``.
    """
    check_choice('schedule', schedule, SCHEDULES)
    if start_ratio is not None:
        check_fraction('start_ratio', start_ratio)
    check_fraction('end_ratio', end_ratio)
    check_point('begin', begin, unit)
    check_point('end', end, unit)
    check_count('num_steps', num_steps, 1)
    if is_count(begin) == is_count(end):
        check_order(begin, end)


def check_order(begin: float, end: float, begin_text: str = '', end_text: str = '') -> None:
    """Check that ``end`` lies after ``begin``.

    Args:
        begin_text, end_text: what a message calls them; by default the numbers.

    Raises:
        InputError: it does not.
    """
    if end <= begin:
        raise InputError(
            f'end={end_text or end} does not lie after begin={begin_text or begin}: raise end or '
            'lower begin.'
        )


class PRepBNScheduler:
    """Sets the ratio of every PRepBN of a model, used as one of torch's learning rate schedulers.

    The ratio of the first iteration is set when the scheduler is built, that of each further one by
    the :meth:`step` after the iteration before it::

        scheduler = PRepBNScheduler(model, total_iters=len(loader) * epochs)
        for epoch in range(epochs):
            for images, targets in loader:
                loss = criterion(model(images), targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()

    The ratio is a function of the iteration alone, see :func:`scheduled_ratio`, so that all
    processes agree and the forward passes of an iteration, however many, do not move it.

    Args:
        model: a model with :class:`~slab_det.layers.PRepBN`, wrapped or not.
        total_iters: number of iterations of the training.
        schedule: ``'linear'`` (the paper's), ``'cosine'`` or ``'step'``.
        begin: where the ratio starts to move: an ``int`` is an iteration, a ``float`` from 0.0 to
            1.0 a fraction of ``total_iters``.
        end: where it arrives, given as ``begin`` is. Mind that ``end=1`` is the second iteration
            and ``end=1.0`` the end of training, whose last iteration then still has a trace of
            LayerNorm, which cannot be re-parameterized. The default, four fifths of training,
            helped users of the published code who met NaN with shorter schedules.
        start_ratio: ratio until ``begin``. Default: the one in the model, which is 1 for new
            weights and LayerNorm checkpoints, and 0 for finished PRepBN checkpoints.
        end_ratio: ratio from ``end`` on.
        num_steps: number of equal drops of ``schedule='step'``.
        last_iter: the iteration that comes next, counted from 0, whose ratio is set at once. None
            leaves the ratio as it is until :meth:`set_iteration` or the first :meth:`step`.

    Attributes:
        begin_iter, end_iter: ``begin`` and ``end`` as iterations, whole or not.

    Raises:
        InputError: ``model`` is not a module, an argument is out of its range, ``end`` does not lie
            after ``begin``, the model has no PRepBN, or ``start_ratio`` is None and its PRepBN
            modules disagree.
    """

    def __init__(
        self,
        model: nn.Module,
        total_iters: int,
        schedule: str = 'linear',
        begin: int | float = 0,
        end: int | float = 0.8,
        start_ratio: float | None = None,
        end_ratio: float = 0.0,
        num_steps: int = 5,
        last_iter: int | None = 0,
    ) -> None:
        check_count('total_iters', total_iters, 1)
        check_schedule(schedule, start_ratio, end_ratio, begin, end, num_steps)
        if last_iter is not None:
            check_count('last_iter', last_iter)
        self.begin_iter, self.end_iter = (
            point if is_count(point) else point * total_iters for point in (begin, end)
        )
        check_order(
            self.begin_iter,
            self.end_iter,
            f'{begin!r} (iteration {self.begin_iter:g})',
            f'{end!r} (iteration {self.end_iter:g})',
        )
        self.modules = _named_norms(model)
        self._start_is_given = start_ratio is not None
        self.start_ratio = float(start_ratio) if self._start_is_given else self._common_ratio()
        self.total_iters = total_iters
        self.schedule = schedule
        self.end_ratio = float(end_ratio)
        self.num_steps = num_steps
        self.last_iter = -1
        if last_iter is not None:
            self.set_iteration(last_iter)

    def ratio_at(self, iteration: int) -> float:
        """Return the ratio of training iteration ``iteration``, counted from 0."""
        return scheduled_ratio(
            iteration,
            self.begin_iter,
            self.end_iter,
            self.start_ratio,
            self.end_ratio,
            self.schedule,
            self.num_steps,
        )

    def set_iteration(self, iteration: int) -> float:
        """Set and return the ratio of training iteration ``iteration``, counted from 0."""
        self.last_iter = iteration
        ratio = self.ratio_at(iteration)
        for module in self.modules.values():
            module.set_ratio(ratio)
        return ratio

    def step(self) -> None:
        """Set the ratio of the next iteration; to be called once after each iteration.

        Raises:
            InputError: training has had all its iterations, ``total_iters``, already.
        """
        if self.last_iter >= self.total_iters:
            raise InputError(
                f'PRepBNScheduler has made all its steps, total_iters={self.total_iters}: set '
                'total_iters to the number of iterations of the whole training, and call step() '
                'once per iteration.'
            )
        self.set_iteration(self.last_iter + 1)

    def get_last_ratio(self) -> float:
        """Return the ratio of the iteration that comes next, or runs, as it was set last."""
        return self.ratio_at(max(self.last_iter, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration and the settings that :meth:`load_state_dict` compares."""
        return dict(self._settings(), start_ratio=self.start_ratio, last_iter=self.last_iter)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken, and set the ratio of that iteration.

        A ``start_ratio`` of None becomes the saved one.

        Raises:
            InputError: ``state_dict`` is not from a PRepBNScheduler, or from one of another length
                or schedule.
        """
        own = self.state_dict()
        if not isinstance(state_dict, Mapping) or own.keys() != state_dict.keys():
            raise InputError(
                f'state_dict={state_dict!r:.60} is not the state of a PRepBNScheduler: load what '
                'its state_dict() returned.'
            )
        compared = [*self._settings(), *['start_ratio'] * self._start_is_given]
        for name in compared:
            if state_dict[name] != own[name]:
                raise InputError(
                    f'{name}={own[name]!r} differs from {name}={state_dict[name]!r} of the state: '
                    'build PRepBNScheduler with the settings that it was saved with, or begin a '
                    'new schedule without loading the state.'
                )
        check_fraction('start_ratio', state_dict['start_ratio'])
        self.start_ratio = state_dict['start_ratio']
        self.last_iter = state_dict['last_iter']
        if self.last_iter >= 0:
            self.set_iteration(self.last_iter)

    def _settings(self) -> dict[str, Any]:
        names = 'total_iters', 'schedule', 'begin_iter', 'end_iter', 'end_ratio', 'num_steps'
        return {name: getattr(self, name) for name in names}

    def _common_ratio(self) -> float:
        ratios = {name: module.sync_ratio() for name, module in self.modules.items()}
        low, high = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
        if ratios[low] != ratios[high]:
            raise InputError(
                f'start_ratio=None: the PRepBN modules of the model, such as {low} and {high}, '
                f'start from different ratios, {ratios[low]:g} to {ratios[high]:g}: set '
                'start_ratio.'
            )
        return ratios[low]


def _named_norms(model: nn.Module) -> dict[str, PRepBN]:
    check_type(
        'model', model, isinstance(model, nn.Module), 'a torch.nn.Module: build the model first'
    )
    norms = {name: module for name, module in model.named_modules() if isinstance(module, PRepBN)}
    if not norms:
        raise InputError(
            f'model={type(model).__name__} has no PRepBN whose ratio could be scheduled: build it '
            "with the norm 'PRepBN', or put it in with convert_norms(model, 'LN', 'PRepBN')."
        )
    return norms
