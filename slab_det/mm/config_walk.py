"""The one walk over configs: dicts and lists in each other, to any depth."""

from collections.abc import Callable, Iterator
from typing import Any


def children(node: Any) -> list[tuple[Any, Any]]:
    """Return (key or index, value) of what a dict, list or tuple holds, else nothing."""
    if isinstance(node, dict):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, (list, tuple)) else []


def walk(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of ``node`` and of everything below it.

    Args:
        node: a config or a part of it.
        path: its own setting; below, keys and indices follow after dots, as
            ``--cfg-options`` names settings.
    """
    yield path, node
    for key, value in children(node):
        yield from walk(value, f'{path}.{key}' if path else str(key))


def walk_dicts(node: Any, path: str = '') -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what :func:`walk` does, if it is a dict."""
    return ((where, value) for where, value in walk(node, path) if isinstance(value, dict))


def rebuild(node: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of ``node`` in which ``change(value)`` stands for every value below it and for
    itself, parents first; dicts and lists that it returns unchanged are descended into."""
    new = change(node)
    if new is not node:
        return new
    if isinstance(node, dict):
        return type(node)({key: rebuild(value, change) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)(rebuild(value, change) for value in node)
    return node


def kind_of(node: Any) -> str:
    """Return the name of the ``type`` of a config, without scope or module: 'PRepBNHook' of
    ``'mmdet.PRepBNHook'`` and of the class itself; '' where there is none."""
    kind = node.get('type', '') if isinstance(node, dict) else ''
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).rpartition('.')[2]


def is_pretrained(node: Any) -> bool:
    """Whether ``node`` is an ``init_cfg`` that reads a checkpoint, by name or by class."""
    return kind_of(node) in ('Pretrained', 'PretrainedInit')
