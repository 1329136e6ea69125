"""Where in training something lies: whole epochs, whole iterations, or a fraction; what hooks check alike."""

import math
from collections.abc import Sized
from numbers import Integral, Real
from typing import Any

from mmengine.hooks import Hook


def is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_flag(name: str, value: Any) -> None:
    """Check that ``value`` is True or False; a word such as ``'False'`` would count as true.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{name}={value!r} must be True or False.')


def check_point(name: str, value: Any) -> None:
    """Check that ``value`` is a point: a count from 0 on, or a fraction from 0.0 to 1.0.

    Raises:
        ValueError: it is neither.
    """
    if is_count(value):
        if value < 0:
            raise ValueError(f'{name}={value} is negative: count epochs or iterations from 0.')
    elif not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(
            f'{name}={value!r} is no number: give a whole number of epochs or '
            'iterations, or a fraction of training such as 0.8.'
        )
    elif not 0 <= value <= 1:
        raise ValueError(
            f'{name}={value} is no fraction of training (0.0 to 1.0): a number of '
            'epochs or iterations must be a whole number.'
        )


def check_only_one(hook: Hook, runner) -> None:
    """Check that ``runner`` has no second hook of the class of ``hook``, such as one from the inherited
    ``custom_hooks``; both would work on the same norms, and the last one would win unnoticed.

    Raises:
        ValueError: it has.
    """
    count = sum(isinstance(other, type(hook)) for other in runner.hooks)
    if count > 1:
        raise ValueError(
            f"custom_hooks has {count} {type(hook).__name__}, which would undo each other's "
            'work: keep one of them and give it all the settings.'
        )


def to_iterations(name: str, value: int | float, by_epoch: bool, runner) -> float:
    """Return the iteration of the point ``value`` in the training of ``runner``.

    Args:
        name: the argument that it is, for messages.
        value: see :func:`check_point`.
        by_epoch: whether counts are epochs or iterations.

    Raises:
        ValueError: the training set holds no image, or the length of an epoch or of training is
            needed and not known.
    """
    images = getattr(runner.train_dataloader, 'dataset', None)
    if isinstance(images, Sized) and not len(images):
        raise ValueError(
            'the training set holds no image, so that training has no iterations: check ann_file and '
            'data_prefix of train_dataloader, and its filter_cfg, which leaves images out.'
        )
    if is_count(value):
        return value * _epoch_length(name, value, runner) if by_epoch else value
    max_iters = runner.max_iters
    if not isinstance(max_iters, Real) or not 0 < max_iters < math.inf:
        raise ValueError(
            f'{name}={value!r} is a fraction of training, whose length is not known '
            f'(max_iters={max_iters!r}): set max_epochs or max_iters in train_cfg, or give '
            f'{name} as a whole number.'
        )
    return value * max_iters


def _epoch_length(name: str, value: int, runner) -> int:
    try:
        length = len(runner.train_dataloader)
    except TypeError as error:
        raise ValueError(
            f'{name}={value!r} counts epochs, but the training data has no length: set '
            'by_epoch=False and count iterations.'
        ) from error
    if value and not length:
        raise ValueError(
            f'{name}={value!r} counts epochs, but an epoch has no batch: lower batch_size of '
            'train_dataloader, or set drop_last=False.'
        )
    return length
