"""Segmentations in COCO's three forms: polygons, run lengths as a list, run lengths as a text."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from .columns import is_number

#: Polygons with larger coordinates overflow pycocotools' integers.
_FAR = 1e6


def check_masks(
    values: Sequence[Any], heights: np.ndarray, widths: np.ndarray
) -> dict[str, list[int]]:
    """Return the indices of faulty segmentations by kind of fault, see :mod:`.rules`.

    Args:
        values: a segmentation per annotation.
        heights, widths: of their images.
    """
    kinds = list(map(type, values))
    found: dict[str, list[int]] = {
        'mask-missing': [
            index
            for index, value in enumerate(values)
            if not value or kinds[index] not in (list, dict) and not isinstance(value, str)
        ],
        'mask-form': [index for index, value in enumerate(values) if value and kinds[index] is str],
    }
    _check_polygons(
        values,
        [index for index, kind in enumerate(kinds) if kind is list and values[index]],
        found,
    )
    _check_runs(
        values,
        [index for index, kind in enumerate(kinds) if kind is dict and values[index]],
        heights,
        widths,
        found,
    )
    return {kind: sorted(set(indices)) for kind, indices in found.items() if indices}


def is_polygon(part: Any) -> bool:
    """Return whether ``part`` is a list of numbers that pycocotools can draw."""
    return type(part) is list and all(is_number(one) and abs(one) < _FAR for one in part)


def _check_polygons(values, indices: list[int], found: dict[str, list[int]]) -> None:
    parts = list(chain.from_iterable(values[index] for index in indices))
    if not parts:
        return
    try:
        if set(map(type, parts)) != {list}:
            raise TypeError
        # Sums meet every number at the speed of C: a text raises, NaN and infinity stay.
        finite = np.isfinite(np.fromiter(map(sum, parts), np.float64, len(parts))).all()
        sound = (
            finite
            and max(map(max, filter(None, parts)), default=0) < _FAR
            and min(map(min, filter(None, parts)), default=0) > -_FAR
        )
    except (TypeError, OverflowError):
        sound = False
    if not sound:
        bad = {index for index in indices if not all(map(is_polygon, values[index]))}
        found['mask-form'] += sorted(bad)
        indices = [index for index in indices if index not in bad]
        parts = list(chain.from_iterable(values[index] for index in indices))
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    owners = np.repeat(
        np.array(indices, int), np.fromiter((len(values[index]) for index in indices), np.int64)
    )
    short = (lengths < 6) | (lengths % 2 == 1)
    found['mask-points'] = owners[short].tolist()
    # pycocotools takes the form of the first part for that of all: 4 numbers are a box.
    found['mask-points-eval'] = [
        index
        for index in set(found['mask-points'])
        if len(values[index][0]) < 4
        or len({len(part) == 4 for part in values[index]}) > 1
        and len(values[index][0]) == 4
    ]


def _check_runs(values, indices: list[int], heights, widths, found: dict[str, list[int]]) -> None:
    texts = []
    found['mask-size'], found['mask-counts'] = [], []
    for index in indices:
        counts, size = values[index].get('counts'), values[index].get('size')
        if (
            type(counts) not in (list, str)
            or type(size) is not list
            or len(size) != 2
            or set(map(type, size)) != {int}
            or not counts
        ):
            found['mask-form'].append(index)
        elif tuple(size) != (heights[index], widths[index]):
            found['mask-size'].append(index)
        elif type(counts) is str:
            texts.append(index)
        elif set(map(type, counts)) != {int} or min(counts) < 0 or sum(counts) != size[0] * size[1]:
            found['mask-counts'].append(index)
    if texts:
        totals = run_totals([values[index]['counts'] for index in texts])
        areas = [values[index]['size'][0] * values[index]['size'][1] for index in texts]
        found['mask-counts'] += np.array(texts)[totals != np.array(areas)].tolist()


def run_totals(texts: Sequence[str]) -> np.ndarray:
    """Return how many pixels each run-length text of pycocotools covers; -1 where it is not one.

    A character holds 5 bits, from the lowest, and a sixth that says whether more follow; from the
    fourth number each is the difference to the one two places before.
    """
    totals = np.full(len(texts), -1, np.int64)
    codes = [np.frombuffer(text.encode('utf-8'), np.uint8) for text in texts]
    sound = [
        index
        for index, code in enumerate(codes)
        if len(code) and code.min() >= 48 and code.max() < 112 and not (code[-1] - 48) & 32
    ]
    if not sound:
        return totals
    data = np.concatenate([codes[index] for index in sound]).astype(np.int64) - 48
    text_of = np.repeat(np.arange(len(sound)), [len(codes[index]) for index in sound])
    last = (data & 32) == 0
    group = np.cumsum(last) - last
    starts = np.flatnonzero(np.r_[True, last[:-1]])
    place = np.arange(len(data)) - starts[group]
    bits = np.minimum(place, 11) * 5
    number = np.add.reduceat((data & 31) << bits, starts)
    ends = np.flatnonzero(last)
    number -= np.where(data[ends] & 16, np.int64(1) << np.minimum(bits[ends] + 5, 62), 0)
    owner = text_of[ends]
    first = np.r_[True, owner[1:] != owner[:-1]]
    nth = np.arange(len(owner)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    # Three chains per text: the first number, then those of odd and of even place.
    chain_of = owner * 3 + np.where(nth == 0, 0, 1 + nth % 2)
    order = np.argsort(chain_of, kind='stable')
    sums = np.cumsum(number[order])
    begins = np.r_[True, np.diff(chain_of[order]) != 0]
    before = (sums - number[order])[begins]
    runs = sums - before[np.cumsum(begins) - 1]
    total = np.bincount(owner[order], weights=runs, minlength=len(sound)).astype(np.int64)
    wrong = np.unique(owner[order][runs < 0])
    total[wrong] = -1
    total[np.unique(owner[place[ends] > 11])] = -1
    totals[sound] = total
    return totals
