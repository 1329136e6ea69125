"""The package's errors: one root, by which tools tell the user's errors from faults."""

from collections.abc import Iterator
from contextlib import contextmanager


class SlabDetError(Exception):
    """What was asked for cannot be done; the message is one sentence with the remedy.

    Every class below also keeps the builtin class that fits, so that ``except ValueError`` works.
    """


class InputError(SlabDetError, ValueError):
    """What the user gave cannot be used; the message names argument, value and remedy."""


class InputTypeError(InputError, TypeError):
    """What the user gave is of a type that cannot be used."""


class MissingFileError(InputError, FileNotFoundError):
    """A file that the user named does not exist."""


class MissingPackageError(SlabDetError, ImportError):
    """A package that this needs cannot be imported, or its version does not fit."""


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line, or the name of its class if it has none."""
    # str() of a KeyError shows its message in quotes.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return ' '.join(str(message).split()) or type(error).__name__


@contextmanager
def user_input(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise an error of the block as :class:`InputError`: its cause is what the user gave.

    Args:
        what: the beginning of the sentence, such as ``'the model of my.py cannot be built'``.
        kinds: the classes of errors that are meant; every ``Exception`` if left out, for blocks
            that do nothing but run what a config names.
    """
    try:
        yield
    except kinds or (Exception,) as error:  # noqa: B030 - a tuple
        raise InputError(f'{what}: {one_line(error)}') from error
