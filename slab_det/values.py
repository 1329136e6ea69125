"""Checks of the values of arguments that several rooms share."""

import math
from numbers import Integral, Real
from typing import Any

from .errors import InputError, InputTypeError


def is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number other than NaN; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def check_flag(name: str, value: Any) -> None:
    """Check that ``value`` is True or False; a word such as ``'False'`` would count as true.

    Raises:
        InputTypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise InputTypeError(f'{name}={value!r:.60} must be True or False.')


def check_count(name: str, value: Any, least: int = 0) -> None:
    """Check that ``value`` is a whole number of at least ``least``.

    Raises:
        InputError: it is not; an InputTypeError if it is not a whole number at all.
    """
    if not is_count(value) or value < least:
        kind = InputError if is_count(value) else InputTypeError
        raise kind(f'{name}={value!r:.60} must be a whole number of at least {least}.')


def check_tolerance(name: str, value: Any) -> None:
    """Check that ``value`` is a number of at least 0.

    Raises:
        InputError: it is not; an InputTypeError if it is not a number at all.
    """
    if not is_number(value) or value < 0:
        kind = InputError if isinstance(value, Real) else InputTypeError
        raise kind(f'{name}={value!r:.60} must be a number of at least 0, such as 0.01.')


def check_type(name: str, value: Any, fits: bool, wanted: str) -> None:
    """Check that ``value`` is of the type that an argument takes.

    Args:
        name: the argument.
        value: its value.
        fits: whether it is.
        wanted: what would be right, and the remedy.

    Raises:
        InputTypeError: it is not.
    """
    if not fits:
        raise InputTypeError(f'{name}={value!r:.60} is not {wanted}.')


def check_fraction(name: str, value: Any) -> None:
    """Check that ``value`` is a number from 0 to 1.

    Raises:
        InputError: it is not.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise InputError(f'{name}={value!r} must be a number from 0 to 1.')


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Check that ``value`` is one of ``choices``.

    Raises:
        InputError: it is not.
    """
    if value not in choices:
        raise InputError(f'{name}={value!r} is unknown: use one of {", ".join(choices)}.')


def check_point(name: str, value: Any, unit: str = 'iterations') -> None:
    """Check that ``value`` is a point of training: a count, or a fraction from 0.0 to 1.0.

    Args:
        name: the argument that it is, for messages.
        value: the point.
        unit: what a whole number counts, for messages.

    Raises:
        InputError: it is neither.
    """
    if is_count(value):
        if value < 0:
            raise InputError(f'{name}={value} is negative: count {unit} from 0.')
    elif not is_number(value) or not 0 <= value <= 1:
        raise InputError(
            f'{name}={value!r} is neither a fraction of training, 0.0 to 1.0, nor a whole number '
            f'of {unit}.'
        )
