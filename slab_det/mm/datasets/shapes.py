"""Outlines and surfaces of the drawn things, in integer arithmetic wherever pixels are computed.

Everything that reaches a pixel is integer arithmetic or OpenCV's bit-exact resizing, so the same
random state gives the same bytes on every machine with the same NumPy and OpenCV.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import RandomState

from slab_det.errors import InputError

SURFACES = ('plain', 'gradient', 'stripes', 'checks', 'blotches')
# Outlines are rasterised on a grid this many times finer, which gives edges of 17 grey levels.
SUPERSAMPLING = 4
_SUBPIXEL_BITS = 4


def _regular(corners: int, radii: Sequence[float] = (1.0,)) -> np.ndarray:
    """Corners on circles of the given radii in turn, the first one pointing up."""
    angles = [2 * math.pi * i / corners - math.pi / 2 for i in range(corners)]
    return np.array(
        [
            [radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)]
            for i, a in enumerate(angles)
        ]
    )


def unit_outlines(name: str) -> list[np.ndarray]:
    """Return the closed outlines of a class within the unit circle; a second one is a hole.

    Args:
        name: 'disk', 'box', 'triangle', 'star' or 'ring'.

    Returns:
        Arrays of shape (corners, 2), columns x and y, y pointing down.

    Raises:
        InputError: for any other name.
    """
    outlines = {
        'disk': [_regular(64)],
        # Stands on a side, so that squeezing leaves a rectangle.
        'box': [math.sqrt(0.5) * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])],
        'triangle': [_regular(3)],
        'star': [_regular(10, (1.0, 0.42))],
        'ring': [_regular(64), _regular(64) * 0.55],
    }
    if name not in outlines:
        known = ', '.join(map(repr, outlines))
        raise InputError(f'name: there is no outline for {name!r}; known are {known}.')
    return outlines[name]


def coverage(name: str, radius: float, aspect: float, angle: float) -> np.ndarray:
    """Return how much of each pixel a thing covers.

    Args:
        name: class, see :func:`unit_outlines`.
        radius: of the circle around the thing before squeezing, in pixels.
        aspect: height after squeezing over height before, in (0, 1].
        angle: rotation after squeezing, in radians.

    Returns:
        uint8 of shape (side, side), 0 (outside) to 255 (inside), the thing's centre in the middle.
    """
    half = int(math.ceil(radius)) + 2  # the drawn edge lies a fraction of a pixel further out
    side = 2 * half
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, sin], [-sin, cos]])
    outlines = [o * (1.0, aspect) @ rotation for o in unit_outlines(name)]
    scale = SUPERSAMPLING * (1 << _SUBPIXEL_BITS)
    # fillPoly puts whole numbers at the centres of pixels.
    points = [
        np.rint((o * radius + half - 0.5 / SUPERSAMPLING) * scale).astype(np.int32)
        for o in outlines
    ]
    fine = np.zeros((side * SUPERSAMPLING, side * SUPERSAMPLING), np.uint8)
    cv2.fillPoly(fine, points, 255, shift=_SUBPIXEL_BITS)
    return cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)


def surface(kind: str, rng: RandomState, height: int, width: int, strength: int) -> np.ndarray:
    """Return the brightness pattern of a surface.

    Args:
        kind: one of :data:`SURFACES`.
        rng: draws the pattern's direction, phase and period.
        height, width: in pixels.
        strength: largest deviation, in grey levels.

    Returns:
        int32 of shape (height, width) in [-strength, strength].
    """
    yy, xx = np.mgrid[:height, :width].astype(np.int32)
    dx, dy = (int(v) for v in rng.randint(-4, 5, size=2))
    if dx == dy == 0:
        dx = 1
    if kind == 'plain':
        return np.zeros((height, width), np.int32)
    if kind == 'gradient':
        ramp = dx * xx + dy * yy
        low, high = int(ramp.min()), int(ramp.max())
        return (2 * strength * (ramp - low)) // max(high - low, 1) - strength
    if kind == 'stripes':
        period = rng.randint(3, 11) * (abs(dx) + abs(dy))
        band = (dx * xx + dy * yy + rng.randint(0, 2 * period)) // period
        return np.where(band % 2 == 0, strength, -strength).astype(np.int32)
    if kind == 'checks':
        period, phase = rng.randint(4, 13), rng.randint(0, 24)
        cells = (xx + phase) // period + (yy + phase) // period
        return np.where(cells % 2 == 0, strength, -strength).astype(np.int32)
    if kind == 'blotches':
        coarse = rng.randint(0, 256, size=(height // 12 + 2, width // 12 + 2)).astype(np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        return (2 * strength * smooth.astype(np.int32)) // 255 - strength
    raise InputError(f'kind: there is no surface {kind!r}; known are {", ".join(SURFACES)}.')


def random_colour(
    rng: RandomState,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hue: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:
    """Return a colour that is uniform in hue, saturation and value within the given ranges.

    Args:
        rng: draws the colour.
        saturation, value: ranges within 0 to 1.
        hue: range in turns of the hue circle; 0 is red, 1/3 green, 2/3 blue; whole turns are
            dropped.

    Returns:
        int32 of shape (3,): blue, green, red, 0 to 255.
    """
    sector, s, v = 6 * rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)
    # Each channel is a trapezium over the hue circle, shifted by a third of it per channel.
    levels = [
        v - v * s * min(max(min((n + sector) % 6, 4 - (n + sector) % 6), 0.0), 1.0)
        for n in (1.0, 3.0, 5.0)
    ]
    return np.array([int(255 * level) for level in levels], np.int32)
