"""A config that inherits another one and holds what differs."""

from collections.abc import Iterator
from typing import Any

WIDTH = 100


class Code(str):
    """Python code in a config, such as ``_base_.custom_hooks[0]``."""


def config_text(base: str, before: dict[str, Any], after: dict[str, Any], head: str) -> str:
    """Return the text of a config that inherits ``base`` and resolves to ``after``.

    Args:
        base: what ``_base_`` says.
        before: what ``base`` resolves to.
        after: what the new config must resolve to.
        head: comment at its top.

    Lists are replaced as a whole when a config is inherited, so those of dicts refer to their
    old entries as ``_base_.NAME[i]``; a dict that loses an entry is written whole.
    """
    changes = override(before, after)
    lines = [f'# {line}' for line in head.splitlines()] + [f'_base_ = {base!r}']
    order = ['custom_imports', 'model']
    for key in sorted(changes, key=lambda key: order.index(key) if key in order else len(order)):
        lines += layout(f'{key} = ', changes[key], 0)
    return '\n'.join(lines) + '\n'


def override(before: dict[str, Any], after: dict[str, Any], path: str = '_base_') -> dict[str, Any]:
    """Return the entries that turn ``before`` into ``after`` when they are merged into it."""
    if set(before) - set(after):
        return {'_delete_': True, **after}
    changes: dict[str, Any] = {}
    for key, value in after.items():
        if key not in before:
            changes[key] = value
        elif before[key] != value:
            changes[key] = _changed(
                before[key],
                value,
                f'{path}.{key}' if str(key).isidentifier() else f'{path}[{key!r}]',
            )
    return changes


def changed_settings(before: Any, after: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Yield (setting, before, after) of every setting that differs; None stands for one that is
    not there.

    A dict of another type is one setting, and so are a list and the rules for groups of parameters.
    """
    if (
        isinstance(before, dict)
        and isinstance(after, dict)
        and before.get('type') == after.get('type')
        and not path.endswith('paramwise_cfg')
    ):
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                yield from changed_settings(
                    before.get(key), after.get(key), f'{path}.{key}' if path else str(key)
                )
    else:
        yield path, before, after


def _changed(before: Any, after: Any, path: str) -> Any:
    if isinstance(after, dict):
        if not isinstance(before, dict) or before.get('type') != after.get('type'):
            return {'_delete_': True, **after}
        return override(before, after, path)
    if _is_list_of_dicts(after) and _is_list_of_dicts(before):
        return _changed_list(before, after, path)
    return after


def _changed_list(before: list[Any], after: list[Any], path: str) -> list[Any]:
    """Return ``after`` with the entries that ``before`` has as references to them."""
    if after[: len(before)] == before:
        return [Code(f'*{path}'), *after[len(before) :]]
    if after[-len(before) :] == before:
        return [*after[: -len(before)], Code(f'*{path}')]
    entries = []
    for index, value in enumerate(after):
        old = before[index] if len(before) == len(after) else None
        if value == old:
            entries.append(Code(f'{path}[{index}]'))
        elif old is not None and not set(old) - set(value) and old.get('type') == value.get('type'):
            new = {key: value[key] for key in value if key not in old or old[key] != value[key]}
            entries.append(Code(_code(new).replace('dict(', f'dict({path}[{index}], ', 1)))
        elif value in before:
            entries.append(Code(f'{path}[{before.index(value)}]'))
        else:
            entries.append(value)
    return entries


def _is_list_of_dicts(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(one, dict) for one in value)
    )


def layout(head: str, value: Any, indent: int, tail: str = '') -> list[str]:
    """Return lines of Python code for ``head`` and ``value``, broken where they are too long."""
    line = ' ' * indent + head + _code(value) + tail
    if (
        len(line) <= WIDTH - 20
        and not head.startswith('model')
        or not isinstance(value, (dict, list, tuple))
        or not value
    ):
        return [line]
    opening, entries, closing = _parts(value)
    lines = [' ' * indent + head + opening]
    for index, (name, one) in enumerate(entries):
        last = index == len(entries) - 1
        lines += layout(name, one, indent + 4, closing + tail if last else ',')
    return lines


def _parts(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> tuple[str, list[Any], str]:
    """Return the opening of ``value`` in code, (name, value) of its entries, and the closing."""
    if not isinstance(value, dict):
        opening, closing = '[]' if isinstance(value, list) else '()'
        return opening, [('', one) for one in value], closing
    if all(isinstance(key, str) and key.isidentifier() for key in value):
        return 'dict(', [(f'{key}=', one) for key, one in value.items()], ')'
    return '{', [(f'{key!r}: ', one) for key, one in value.items()], '}'


def _code(value: Any) -> str:
    if not isinstance(value, (dict, list, tuple)):
        return str(value) if isinstance(value, Code) else repr(value)
    opening, entries, closing = _parts(value)
    if isinstance(value, tuple) and len(value) == 1:
        closing = ',)'
    return opening + ', '.join(name + _code(one) for name, one in entries) + closing
