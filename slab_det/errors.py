"""The root of this package's errors, and their message as one sentence."""


class InputError(ValueError):
    """What the user gave cannot be used; the message names argument, value and remedy."""


class InputTypeError(InputError, TypeError):
    """What the user gave is of a type that cannot be used."""


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks; the name of its class where it has none."""
    # str() of a KeyError shows its message in quotes.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return ' '.join(str(message).split()) or type(error).__name__
