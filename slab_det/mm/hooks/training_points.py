"""What hooks check alike, and where in training a point lies."""

import math
from collections.abc import Sized
from numbers import Real

from mmengine.hooks import Hook

from slab_det.errors import InputError
from slab_det.values import is_count

#: What a whole number may count in the arguments of hooks.
UNIT = 'epochs or iterations'


def check_only_one(hook: Hook, runner) -> None:
    """Check that ``runner`` has no second hook of the class of ``hook``.

    One may come from the inherited ``custom_hooks``; both would work on the same norms, and the
    last one would win unnoticed.

    Raises:
        InputError: it has.
    """
    count = sum(isinstance(other, type(hook)) for other in runner.hooks)
    if count > 1:
        raise InputError(
            f"custom_hooks has {count} {type(hook).__name__}, which would undo each other's "
            'work: keep one of them and give it all the settings.'
        )


def to_iterations(name: str, value: int | float, by_epoch: bool, runner) -> float:
    """Return the iteration of the point ``value`` in the training of ``runner``.

    Args:
        name: the argument that it is, for messages.
        value: see :func:`slab_det.values.check_point`.
        by_epoch: whether counts are epochs or iterations.

    Raises:
        InputError: the training set holds no image, or the length of an epoch or of training is
            needed and not known.
    """
    images = getattr(runner.train_dataloader, 'dataset', None)
    if isinstance(images, Sized) and not len(images):
        raise InputError(
            'the training set holds no image, so that training has no iterations: check ann_file '
            'and data_prefix of train_dataloader, and its filter_cfg, which leaves images out.'
        )
    if is_count(value):
        return value * _epoch_length(name, value, runner) if by_epoch else value
    max_iters = runner.max_iters
    if not isinstance(max_iters, Real) or not 0 < max_iters < math.inf:
        raise InputError(
            f'{name}={value!r} is a fraction of training, whose length is not known '
            f'(max_iters={max_iters!r}): set max_epochs or max_iters in train_cfg, or give '
            f'{name} as a whole number.'
        )
    return value * max_iters


def _epoch_length(name: str, value: int, runner) -> int:
    try:
        length = len(runner.train_dataloader)
    except TypeError as error:
        raise InputError(
            f'{name}={value!r} counts epochs, but the training data has no length: set '
            'by_epoch=False and count iterations.'
        ) from error
    if value and not length:
        raise InputError(
            f'{name}={value!r} counts epochs, but an epoch has no batch: lower batch_size of '
            'train_dataloader, or set drop_last=False.'
        )
    return length
