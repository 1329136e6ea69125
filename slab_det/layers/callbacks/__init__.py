"""The ratio of PRepBN in trainers of others; each module needs the trainer that it is for.

:mod:`~slab_det.layers.callbacks.huggingface` is for the ``Trainer`` of ``transformers``,
:mod:`~slab_det.layers.callbacks.lightning` for that of Lightning. A loop of one's own takes
:class:`~slab_det.layers.PRepBNScheduler` itself.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from slab_det.errors import InputError

from ..ratio_schedule import PRepBNScheduler


def scheduler_at(
    model: nn.Module,
    total_iters: int,
    iteration: int,
    saved: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> PRepBNScheduler:
    """Return the scheduler of a training that goes on at ``iteration``, the model's ratio set.

    Args:
        model: a model with :class:`~slab_det.layers.PRepBN`.
        total_iters: number of iterations of the training.
        iteration: the one that comes next, counted from 0.
        saved: the scheduler's state in the checkpoint of a resumed training.
        settings: the other arguments of :class:`~slab_det.layers.PRepBNScheduler`.

    Raises:
        InputError: a setting is out of its range or not the saved one, or the training resumes
            without a saved state and ``start_ratio`` is not given.
    """
    if iteration and not saved and settings.get('start_ratio') is None:
        raise InputError(
            f'start_ratio=None: the training resumes at iteration {iteration} from a checkpoint '
            'that does not say which ratio it started from: set start_ratio.'
        )
    scheduler = PRepBNScheduler(model, total_iters, **settings)
    if saved:
        scheduler.load_state_dict(saved)
    scheduler.set_iteration(iteration)
    return scheduler
