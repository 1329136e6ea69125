"""The ratio of PRepBN as a function of the training iteration."""

import math

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
    r"""Ratio :math:`g` at which a training iteration runs.

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
        ValueError: the schedule is unknown, or ``end`` does not lie after ``begin``.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f'schedule={schedule!r} is unknown: use one of {", ".join(SCHEDULES)}.')
    if end <= begin:
        raise ValueError(f'end={end} does not lie after begin={begin}: raise end or lower begin.')
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
