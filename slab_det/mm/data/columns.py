"""Values of one key of many entries as arrays, without trust in their types."""

import math
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import Any

import numpy as np

#: In place of a key that an entry lacks.
ABSENT = object()


def column(entries: Sequence[dict], key: str) -> list[Any]:
    """Return the value of ``key`` of every entry, ABSENT where it is missing."""
    return [entry.get(key, ABSENT) for entry in entries]


def where(flags: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Return the indices of the true ones."""
    return np.flatnonzero(np.asarray(flags, bool))


def is_number(value: Any) -> bool:
    """Return whether a value read from JSON is a finite number within float64."""
    if type(value) is int:
        return abs(value) < 1 << 1000
    return type(value) is float and math.isfinite(value)


def numbers(values: Sequence[Any]) -> np.ndarray:
    """Return float64 ``(N, )``: NaN for what is not a finite number."""
    if set(map(type, values)) <= {int, float}:
        try:
            found = np.fromiter(values, np.float64, len(values))
        except OverflowError:
            found = None
        if found is not None:
            found[~np.isfinite(found)] = np.nan
            return found
    return np.array([float(value) if is_number(value) else np.nan for value in values], np.float64)


def boxes(values: Sequence[Any]) -> np.ndarray:
    """Return float64 ``(N, 4)``: NaN in the rows of what is not a list of four finite numbers."""
    if not (set(map(type, values)) <= {list} and set(map(len, values)) <= {4}):
        hollow = [math.nan] * 4
        values = [value if type(value) is list and len(value) == 4 else hollow for value in values]
    found = numbers(list(chain.from_iterable(values))).reshape(-1, 4)
    found[np.isnan(found).any(1)] = np.nan
    return found


def is_id(value: Any) -> bool:
    """Return whether a value can be an id: a text or a finite number."""
    return type(value) is str or is_number(value)


def ids(values: list[Any]) -> tuple[list[Hashable], np.ndarray]:
    """Return ids with an object of its own in place of each that cannot be one, and the indices of
    these."""
    if set(map(type, values)) <= {int, str}:
        return values, np.empty(0, int)
    bad = [index for index, value in enumerate(values) if not is_id(value)]
    values = list(values)
    for index in bad:
        values[index] = object()
    return values, np.array(bad, int)


def repeated(values: Sequence[Hashable]) -> np.ndarray:
    """Return the indices of values that occur earlier too."""
    if len(set(values)) == len(values):
        return np.empty(0, int)
    seen: set[Hashable] = set()
    later = []
    for index, value in enumerate(values):
        if value in seen:
            later.append(index)
        seen.add(value)
    return np.array(later, int)
