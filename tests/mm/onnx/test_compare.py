"""Matching of two detectors' detections."""

import numpy as np
import pytest

from slab_det.mm.onnx.compare import compare, comparison_sizes


def detections(boxes, scores, labels):
    return dict(
        boxes=np.array(boxes, np.float32),
        scores=np.array(scores, np.float32),
        labels=np.array(labels),
    )


TWO = ([[0, 0, 10, 10], [50, 50, 60, 60]], [0.5, 0.5], [0, 0])


def test_order_does_not_matter_where_scores_are_equal():
    found = compare(detections(*TWO), detections(TWO[0][::-1], TWO[1], TWO[2]))
    assert (found.count, found.extra, found.matched, found.box, found.score) == (2, 0, 2, 0, 0)


def test_reports_the_largest_difference_of_what_matches():
    found = compare(
        detections(*TWO), detections([[0, 0, 10, 10.5], [50, 50, 60, 60]], [0.5, 0.503], [0, 0])
    )
    assert (
        found.matched == 2
        and found.box == pytest.approx(0.5)
        and found.score == pytest.approx(0.003, rel=1e-3)
    )


@pytest.mark.parametrize(
    'boxes, scores, labels',
    [
        ([[0, 0, 10, 10], [50, 50, 60, 62]], [0.5, 0.5], [0, 0]),
        ([[0, 0, 10, 10], [50, 50, 60, 60]], [0.5, 0.4], [0, 0]),
        ([[0, 0, 10, 10], [50, 50, 60, 60]], [0.5, 0.5], [0, 1]),
        ([[0, 0, 10, 10]], [0.5], [0]),
    ],
)
def test_what_differs_too_much_is_not_matched(boxes, scores, labels):
    found = compare(detections(*TWO), detections(boxes, scores, labels))
    assert found.matched == 1 and found.extra == len(scores) - 2


def test_a_detection_is_matched_once():
    twice = detections([TWO[0][0]] * 2, [0.5, 0.5], [0, 0])
    assert compare(twice, detections([TWO[0][0]], [0.5], [0])).matched == 1


def test_masks_are_compared_as_probabilities():
    first, second = detections(*TWO), detections(*TWO)
    first['masks'], second['masks'] = (
        np.zeros((2, 3, 3), np.float32),
        np.zeros((2, 3, 3), np.float32),
    )
    second['masks'][1, 0, 0] = np.log(3)  # a probability of 0.75
    assert compare(first, second).mask == pytest.approx(0.25)


def test_sizes_follow_the_test_pipeline():
    assert comparison_sizes(None, (60, 80)) == [(60, 80)]
    both = comparison_sizes(dict(scale=[160, 96], keep_ratio=True))
    assert (96, 160) in both and (160, 96) in both
