import math

import numpy as np
import pytest
from numpy.random import RandomState

from slab_det.mm.datasets.scenes import THING_CLASSES
from slab_det.mm.datasets.shapes import SURFACES, coverage, random_colour, surface, unit_outlines

# Areas within the unit circle, from elementary geometry.
STAR = 10 * 0.5 * 0.42 * math.sin(math.pi / 5)
AREAS = dict(
    disk=math.pi, box=2.0, triangle=3 * math.sqrt(3) / 4, star=STAR, ring=math.pi * (1 - 0.55**2)
)


@pytest.mark.parametrize('name', THING_CLASSES)
@pytest.mark.parametrize('aspect', [1.0, 0.6])
def test_covered_area_is_that_of_the_figure(name, aspect):
    alpha = coverage(name, radius=40.0, aspect=aspect, angle=0.3)
    expected = AREAS[name] * 40**2 * aspect
    assert alpha.astype(float).sum() / 255 == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize('name', THING_CLASSES)
def test_coverage_has_soft_edges_and_stays_inside_its_patch(name):
    alpha = coverage(name, radius=15.0, aspect=1.0, angle=1.0)
    assert len(np.unique(alpha)) > 5
    border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    assert border.max() == 0


def test_a_box_squeezed_is_still_a_rectangle():
    mask = coverage('box', radius=30.0, aspect=0.5, angle=0.0) >= 128
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask.sum() >= len(rows) * len(columns) - 4  # the corners are rounded
    assert len(columns) / len(rows) == pytest.approx(2, rel=0.1)


def test_a_ring_has_a_hole():
    mask = coverage('ring', radius=20.0, aspect=1.0, angle=0.0) >= 128
    middle = len(mask) // 2
    assert not mask[middle, middle] and mask[middle].any()


def test_unknown_outline_is_named():
    with pytest.raises(ValueError, match="'hexagon'.*'disk'"):
        unit_outlines('hexagon')


@pytest.mark.parametrize('kind', SURFACES)
@pytest.mark.parametrize('seed', range(5))
def test_surface_stays_within_its_strength(kind, seed):
    pattern = surface(kind, RandomState(seed), 60, 90, strength=20)
    assert pattern.shape == (60, 90)
    assert pattern.min() >= -20 and pattern.max() <= 20
    assert (kind == 'plain') == (len(np.unique(pattern)) == 1)


def test_unknown_surface_is_named():
    with pytest.raises(ValueError, match="'marble'.*plain"):
        surface('marble', RandomState(0), 8, 8, 4)


def test_colours_keep_to_the_value_and_saturation_asked_for():
    for seed in range(200):
        colour = random_colour(RandomState(seed), saturation=(0.5, 0.6), value=(0.8, 0.9))
        assert 0.8 * 255 - 1 <= colour.max() <= 0.9 * 255
        assert 0.5 - 0.02 <= 1 - colour.min() / colour.max() <= 0.6 + 0.02
