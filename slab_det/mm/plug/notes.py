"""Reasons for what plugging changes, and for what it leaves."""

from collections.abc import Callable
from typing import NamedTuple


class Note(NamedTuple):
    """Why a setting changed, or why it was left.

    Attributes:
        path: the setting, such as ``model.neck.in_channels``.
        text: the reason.
        left: the setting was not changed, though it may have to be.
    """

    path: str
    text: str
    left: bool = False


#: Takes the fields of a :class:`Note`; what adapts a part of a config is given one.
Noting = Callable[..., None]


def not_adapted(notes: list[Note]) -> str:
    """Return what was left, as the end of an error."""
    left = [f'{note.path} {note.text}' for note in notes if note.left]
    return f' (not adapted: {"; ".join(left)})' if left else ''
