import numpy as np
import pytest
from pycocotools.coco import COCO

from slab_det.mm.analysis.coco_errors import CURVES, draw_errors, error_curves


def truth_of(*objects):
    """COCO truth of one image a object: (category, box)."""
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=i, width=100, height=100) for i in range(1, len(objects) + 1)],
        annotations=[
            dict(id=i, image_id=i, category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0)
            for i, (category, box) in enumerate(objects, start=1)
        ],
        categories=[
            dict(id=1, name='cat', supercategory='animal'),
            dict(id=2, name='dog', supercategory='animal'),
            dict(id=3, name='car', supercategory='vehicle'),
        ],
    )
    truth.createIndex()
    return truth


def found(image, category, box, score):
    return dict(image_id=image, category_id=category, bbox=box, score=score)


BOX = [10, 10, 40, 40]


def aps(truth, results):
    curves = error_curves(truth, results)
    return dict(zip(CURVES, curves.average_precision()[:, 0]))


def test_all_found_in_place_loses_nothing():
    found_aps = aps(truth_of((1, BOX)), [found(1, 1, BOX, 0.9)])
    assert list(found_aps.values()) == pytest.approx([1.0] * 7)


@pytest.mark.parametrize(
    'shift, right_from',
    [
        (4, 'C75'),  # IoU 36 / 44 = 0.82
        (8, 'C50'),  # 32 / 48 = 0.67
        (20, 'Loc'),  # 20 / 60 = 0.33
        (34, 'BG'),  # 6 / 74 = 0.08, so that the object counts as not found
    ],
)
def test_places_are_forgiven_from_loc_on(shift, right_from):
    found_aps = aps(truth_of((1, BOX)), [found(1, 1, [10 + shift, *BOX[1:]], 0.9)])
    first = list(CURVES).index('FN' if right_from == 'BG' else right_from)
    assert [found_aps[name] for name in CURVES] == pytest.approx(
        [float(i >= first) for i in range(7)]
    )


@pytest.mark.parametrize('other, right_from', [(2, 'Sim'), (3, 'Oth')])
def test_confusions_are_forgiven_by_kind(other, right_from):
    # The surer detection of a cat lies on something else: half of what was found is right.
    truth = truth_of((1, BOX), (other, BOX))
    found_aps = aps(truth, [found(1, 1, BOX, 0.5), found(2, 1, BOX, 0.9)])
    first = list(CURVES).index(right_from)
    assert [found_aps[name] for name in CURVES] == pytest.approx(
        [1.0 if i >= first else 0.5 for i in range(7)]
    )


def test_detections_of_nothing_are_forgiven_by_background():
    found_aps = aps(truth_of((1, BOX)), [found(1, 1, [80, 80, 10, 10], 0.9), found(1, 1, BOX, 0.5)])
    assert [found_aps[name] for name in CURVES] == pytest.approx([0.5] * 5 + [1.0] * 2)


def test_what_was_not_found_is_the_rest():
    # One of two cats: recalls 0 to 0.5 are reached, 51 of 101.
    found_aps = aps(truth_of((1, BOX), (1, BOX)), [found(1, 1, BOX, 0.9)])
    assert [found_aps[name] for name in CURVES] == pytest.approx([51 / 101] * 6 + [1.0])


def test_a_category_without_detections_counts_and_one_without_objects_does_not():
    curves = error_curves(truth_of((1, BOX), (3, BOX)), [found(1, 1, BOX, 0.9)])
    assert curves.names == ['cat', 'car']
    assert curves.average_precision()[:, 1].tolist() == [0] * 6 + [1]


def test_results_are_left_as_they_are_and_the_figure_shows_every_category():
    results = [found(1, 1, BOX, 0.9)]
    curves = error_curves(truth_of((1, BOX), (3, BOX)), results)
    assert results == [found(1, 1, BOX, 0.9)]
    figure = draw_errors(curves, 'title', most=1)
    left, right = figure.axes
    assert [label.get_text() for label in right.get_yticklabels()] == ['car']
    assert len(left.get_legend().get_texts()) == len(CURVES)
    assert np.all(np.diff(np.maximum.accumulate(curves.precision, axis=0), axis=0) >= 0)


def test_nothing_to_analyse_is_named():
    with pytest.raises(ValueError, match='no detection'):
        error_curves(truth_of((1, BOX)), [])
