import numpy as np
import pytest

from slab_det.mm.visualization import Instance, class_colour, compare, draw_instances
from slab_det.mm.visualization.panels import MIN_PANEL_SIDE

CLASSES = ('disk', 'box', 'triangle')
GREY = 120


def image(height=100, width=140):
    return np.full((height, width, 3), GREY, np.uint8)


def square(top=30, left=40, side=20, shape=(100, 140)):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def instance(label=1, **settings):
    return Instance(label, (40, 30, 60, 50), **settings)


def changed(before, after):
    return (before != after).any(axis=2)


def test_the_image_given_stays_as_it_is():
    before = image()
    draw_instances(before, [instance(mask=square())], CLASSES)
    assert (before == GREY).all()


def test_a_mask_tints_its_pixels_with_the_colour_of_its_class():
    drawn = draw_instances(image(), [instance(mask=square())], CLASSES)
    colour = np.array(class_colour(1))
    inner = drawn[38:42, 48:52].astype(int)
    between = np.abs(inner - GREY).sum(-1) + np.abs(inner - colour).sum(-1)
    assert np.abs(inner - GREY).sum() > 0
    assert between == pytest.approx(np.abs(colour - GREY).sum(), abs=6)


def test_without_a_mask_the_inside_of_the_box_stays_free():
    drawn = draw_instances(image(), [instance()], CLASSES)
    inside = (slice(35, 45), slice(45, 55))
    assert not changed(image(), drawn)[inside].any()
    edge = drawn[30, 45:55]
    assert (edge == class_colour(1)).all()


def test_far_from_instances_nothing_is_drawn():
    drawn = draw_instances(image(), [instance(mask=square())], CLASSES)
    assert not changed(image(), drawn)[75:].any()


def test_an_ignored_region_is_grey():
    drawn = draw_instances(image(), [instance(mask=square(), ignored=True)], CLASSES)
    inner = drawn[38:42, 48:52]
    assert (inner == inner[..., :1]).all()


def test_the_surest_prediction_is_drawn_last():
    twins = [
        Instance(label, (40, 30, 60, 50), score=score) for label, score in ((0, 0.9), (2, 0.4))
    ]
    for order in (twins, twins[::-1]):
        assert (draw_instances(image(), order, CLASSES)[30, 45:55] == class_colour(0)).all()


def test_names_of_instances_at_one_place_do_not_cover_each_other():
    one = [instance(label) for label in (0, 1)]
    drawn = draw_instances(image(200, 300), one, CLASSES)
    for label in (0, 1):
        colour = (drawn == class_colour(label)).all(axis=2)
        assert max(colour.sum(axis=1)) > 20, 'the tag of each class is to be seen'


@pytest.mark.parametrize('bbox', [(-10, -10, 300, 300), (0, 0, 0, 0), (139, 99, 140, 100)])
def test_boxes_at_and_beyond_the_frame(bbox):
    drawn = draw_instances(image(), [Instance(0, bbox)], CLASSES)
    assert drawn.shape == (100, 140, 3) and changed(image(), drawn).any()


def test_an_empty_mask_is_no_error():
    draw_instances(image(), [instance(mask=np.zeros((100, 140), bool))], CLASSES)


@pytest.mark.parametrize('height, width', [(100, 140), (900, 700)])
def test_panels_are_large_enough_and_truth_stands_on_the_left(height, width):
    box = Instance(1, (0.3 * width, 0.3 * height, 0.7 * width, 0.7 * height))
    picture = compare(image(height, width), [box], [], CLASSES)
    scale = max(1, MIN_PANEL_SIDE / min(height, width))
    assert picture.shape[1] >= 2 * width * scale
    coloured = (picture == class_colour(1)).all(axis=2)
    legend = round(height * scale) + 34
    assert coloured[:legend, : picture.shape[1] // 2].any()
    assert not coloured[:legend, picture.shape[1] // 2 :].any()


def test_predictions_below_the_threshold_are_left_out():
    shown = compare(image(), [], [instance(score=0.5)], CLASSES, score_thr=0.5)
    hidden = compare(image(), [], [instance(score=0.49)], CLASSES, score_thr=0.5)
    assert (shown == class_colour(1)).all(axis=2).any()
    assert not (hidden == class_colour(1)).all(axis=2).any()


def test_the_legend_wraps_where_many_classes_occur():
    names = [f'class number {i}' for i in range(60)]
    few, many = (
        compare(image(), [Instance(i, (5, 5, 20, 20)) for i in range(count)], [], names)
        for count in (2, 60)
    )
    assert many.shape[0] > few.shape[0] and many.shape[1] == few.shape[1]


def test_colours_of_neighbouring_classes_differ():
    colours = np.array([class_colour(i) for i in range(80)]).astype(int)
    assert len(np.unique(colours, axis=0)) == 80
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 60
