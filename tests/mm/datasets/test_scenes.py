import cv2
import numpy as np
import pytest
from numpy.random import RandomState

from slab_det.mm.datasets import STUFF_CLASSES, THING_CLASSES, draw_scene
from slab_det.mm.datasets.scenes import _background


def scenes(count=40, height=150, width=190):
    return [draw_scene(RandomState(seed), height, width) for seed in range(count)]


def test_every_thing_is_visible_and_every_visible_thing_has_a_label():
    for scene in scenes():
        ids = set(np.unique(scene.instances)) - {0}
        assert ids == set(range(1, len(scene.labels) + 1))
        assert 1 <= len(scene.labels) <= 9
        assert np.bincount(scene.instances.ravel())[1:].min() >= 48


def test_all_classes_backgrounds_and_occlusion_occur():
    drawn = scenes()
    assert {label for scene in drawn for label in scene.labels} == set(range(len(THING_CLASSES)))
    stuff = set(np.concatenate([np.unique(scene.stuff) for scene in drawn]))
    assert stuff == set(range(len(STUFF_CLASSES)))
    assert any(len(np.unique(scene.stuff)) == 2 for scene in drawn)
    # Two things touch where one covers the other: neighbouring pixels with different ids.
    touching = [
        (
            (s.instances[:, 1:] != s.instances[:, :-1])
            & (s.instances[:, 1:] > 0)
            & (s.instances[:, :-1] > 0)
        ).any()
        for s in drawn
    ]
    assert any(touching)


def test_things_are_painted_where_the_instance_map_says_and_nowhere_else():
    for seed in range(20):
        scene = draw_scene(RandomState(seed), 150, 190)
        background, _ = _background(RandomState(seed), 150, 190)
        difference = np.abs(scene.image.astype(int) - background)
        near = cv2.dilate((scene.instances > 0).astype(np.uint8), np.ones((5, 5))) > 0
        assert difference[~near].max() <= 8  # the noise
        for thing in range(1, len(scene.labels) + 1):
            assert difference[scene.instances == thing].sum(axis=1).mean() > 20


def test_the_same_state_draws_the_same_scene_and_another_one_does_not():
    first, again = (draw_scene(RandomState(7), 100, 120) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.instances, again.instances)
    assert first.labels == again.labels
    assert not np.array_equal(first.image, draw_scene(RandomState(8), 100, 120).image)


@pytest.mark.parametrize('height, width', [(64, 64), (64, 300), (300, 64)])
def test_extreme_sizes(height, width):
    scene = draw_scene(RandomState(0), height, width)
    assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
    assert scene.instances.shape == scene.stuff.shape == (height, width)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match='63 x 100.*at least 64'):
        draw_scene(RandomState(0), 63, 100)
