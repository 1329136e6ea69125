"""Scenes of overlapping shapes, with the visible part of every thing known to the pixel.

A scene is all that an annotation needs and no annotation format: image, instance map and
background map. COCO instances are written from it; semantic and panoptic maps can be, without new
drawing.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from slab_det.errors import InputError

from .shapes import SURFACES, coverage, random_colour, surface

# The one place for the class names: configs and tools take them from here or repeat them in this
# order; category k of the annotations (from 1) is class k - 1.
THING_CLASSES = ('disk', 'box', 'triangle', 'star', 'ring')
# Things of a class tend to a hue, as real ones do; the ranges of neighbouring classes overlap, and
# dark and pale things hardly show theirs, so outlines decide.
_HUE_SPREAD = 0.14
# What the background consists of, by its surface.
STUFF_CLASSES = SURFACES

MIN_SIDE = 64  # smallest image side for which scenes can be drawn
_MIN_VISIBLE = 0.5  # of a thing, counted against its whole area, the part beyond the frame included
_MIN_AREA = 48  # visible pixels
_MIN_CONTRAST = 110  # summed over the three channels, against the background beneath
_TRIES = 12


@dataclass
class Scene:
    """One picture and everything known about it.

    Attributes:
        image: uint8 (H, W, 3), blue, green, red.
        instances: int32 (H, W); 0 is background, k > 0 the k-th thing, where it is visible.
        labels: index into THING_CLASSES of thing 1, 2, ...; every thing has visible pixels.
        stuff: uint8 (H, W), index into STUFF_CLASSES of the background, also beneath the things.
    """

    image: np.ndarray
    instances: np.ndarray
    labels: list[int]
    stuff: np.ndarray


def draw_scene(rng: RandomState, height: int, width: int) -> Scene:
    """Draw one scene.

    Args:
        rng: source of everything random; the same state gives the same scene, byte for byte.
        height, width: in pixels, at least MIN_SIDE each.

    Returns:
        A scene of one to nine things. A later thing may cover an earlier one, and the frame may cut
        either, as long as 50 % and 48 pixels of each stay visible: nothing is drawn that is not
        annotated, and nothing annotated that cannot be seen.

    Raises:
        InputError: a side below MIN_SIDE.
    """
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f'height, width: got {height} x {width}, expected at least {MIN_SIDE} each.'
        )
    image, stuff = _background(rng, height, width)
    instances = np.zeros((height, width), np.int32)
    labels: list[int] = []
    whole_areas: list[int] = []
    for _ in range(rng.randint(2, 10)):
        _add_thing(rng, image, instances, labels, whole_areas)
    while not labels:
        _add_thing(rng, image, instances, labels, whole_areas)
    noise = rng.randint(-1, 2, size=image.shape) * rng.randint(0, 9)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return Scene(image, instances, labels, stuff)


def _background(rng: RandomState, height: int, width: int):
    """One or two surfaces, divided by a straight line through the picture."""
    image = np.empty((height, width, 3), np.int32)
    stuff = np.empty((height, width), np.uint8)
    yy, xx = np.mgrid[:height, :width]
    everywhere = np.ones((height, width), bool)
    regions = [everywhere]
    if rng.randint(0, 2):
        dx, dy = (int(v) for v in rng.randint(1, 8, size=2))
        x0, y0 = int(rng.randint(width // 4, width)), int(rng.randint(height // 4, height))
        side = dx * (xx - x0) + int(rng.choice((-1, 1))) * dy * (yy - y0) > 0
        regions.append(side)
    for region in regions:
        kind = int(rng.randint(0, len(SURFACES)))
        pattern = surface(SURFACES[kind], rng, height, width, int(rng.randint(6, 26)))
        colour = random_colour(rng, saturation=(0.0, 0.45), value=(0.25, 0.95))
        image[region] = (colour + pattern[..., None])[region]
        stuff[region] = kind
    return np.clip(image, 0, 255), stuff


def _add_thing(
    rng: RandomState,
    image: np.ndarray,
    instances: np.ndarray,
    labels: list[int],
    whole_areas: list[int],
) -> None:
    """Paint one thing over the scene, in place; none when no place for it is found."""
    height, width = instances.shape
    label = int(rng.randint(0, len(THING_CLASSES)))
    low, high = 0.075 * min(height, width), 0.3 * min(height, width)
    for _ in range(_TRIES):
        # Radii uniform in the logarithm: as many doublings of size are equally common.
        radius = low * (high / low) ** rng.uniform()
        alpha = coverage(
            THING_CLASSES[label],
            radius,
            aspect=rng.uniform(0.55, 1.0),
            angle=rng.uniform(0, 2 * math.pi),
        )
        x, y = int(rng.randint(0, width)), int(rng.randint(0, height))
        half = len(alpha) // 2
        top, left = max(y - half, 0), max(x - half, 0)
        window = (slice(top, min(y + half, height)), slice(left, min(x + half, width)))
        whole_area = int((alpha >= 128).sum())
        alpha = alpha[
            window[0].start - (y - half) : window[0].stop - (y - half),
            window[1].start - (x - half) : window[1].stop - (x - half),
        ]
        mask = alpha >= 128
        if _fits(instances[window], mask, whole_area, instances, whole_areas):
            break
    else:
        return
    patch = image[window]
    beneath = patch[mask].mean(axis=0).astype(np.int32)
    typical = label / len(THING_CLASSES)
    for _ in range(_TRIES):
        colour = random_colour(
            rng,
            saturation=(0.35, 1.0),
            value=(0.2, 1.0),
            hue=(typical - _HUE_SPREAD, typical + _HUE_SPREAD),
        )
        if np.abs(colour - beneath).sum() >= _MIN_CONTRAST:
            break
    else:
        colour = np.where(beneath < 128, 230, 25).astype(np.int32)
    kind = SURFACES[int(rng.randint(0, len(SURFACES)))]
    pattern = surface(kind, rng, *mask.shape, strength=int(rng.randint(8, 34)))
    painted = np.clip(colour + pattern[..., None], 0, 255)
    weight = alpha.astype(np.int32)[..., None]
    image[window] = (weight * painted + (255 - weight) * patch + 127) // 255
    labels.append(label)
    whole_areas.append(whole_area)
    instances[window][mask] = len(labels)


def _fits(
    patch: np.ndarray,
    mask: np.ndarray,
    whole_area: int,
    instances: np.ndarray,
    whole_areas: list[int],
) -> bool:
    """Whether the new thing, and every thing that it covers, would still be seen well enough."""
    if not _seen(int(mask.sum()), whole_area):
        return False
    covered = patch[mask]
    for thing in np.unique(covered[covered > 0]):
        left = int((instances == thing).sum()) - int((covered == thing).sum())
        if not _seen(left, whole_areas[thing - 1]):
            return False
    return True


def _seen(visible: int, whole_area: int) -> bool:
    return visible >= max(_MIN_AREA, _MIN_VISIBLE * whole_area)
