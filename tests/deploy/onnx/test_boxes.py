"""Anchors, decoding and selection against mmdet's own and against plain sorting."""

import pytest
import torch
from mmdet.models.layers import multiclass_nms
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmengine.config import ConfigDict

from slab_det.deploy.onnx.boxes import Anchors, Decoder, Suppression, suppress_by_class, take_best
from slab_det.deploy.onnx.ops import non_max_suppression, top_k


def boxes(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = 60 * torch.rand(number, 2, generator=generator)
    return torch.cat([corner, corner + 5 + 40 * torch.rand(number, 2, generator=generator)], 1)


def scores(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('center_offset', [0.0, 0.5])
def test_anchors_are_mmdets_at_any_size(center_offset):
    generator = AnchorGenerator(
        strides=[8, (16, 12)],
        ratios=[0.5, 1.0],
        octave_base_scale=4,
        scales_per_octave=2,
        center_offset=center_offset,
    )
    anchors = Anchors(generator)
    sizes = [(5, 7), (3, 1)]
    for level, expected in enumerate(generator.grid_priors(sizes, device='cpu')):
        assert torch.allclose(anchors(level, *sizes[level]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(target_means=(0.1, -0.1, 0.2, 0.0), target_stds=(0.1, 0.1, 0.2, 0.2)),
        dict(clip_border=False),
        dict(add_ctr_clamp=True, ctr_clamp=3),
    ],
)
def test_boxes_decode_as_in_mmdet(options):
    coder = DeltaXYWHBBoxCoder(**options)
    deltas = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    expected = coder.decode(boxes(50), deltas, max_shape=(70, 90))
    found = Decoder(coder)(boxes(50), deltas, torch.tensor([90.0, 70, 90, 70]))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('limit', [1, 5, 17, 10**6, -1])
def test_the_best_entries_are_those_of_a_whole_sort(limit):
    values = torch.randn(30, 7, generator=torch.Generator().manual_seed(3))
    best, rows, columns = take_best(values, limit)
    expected = values.flatten().sort(descending=True)[0][: limit if limit > 0 else None]
    assert torch.equal(best, expected)
    assert torch.equal(values[rows, columns], best)


def test_top_k_gives_all_where_there_are_fewer():
    assert top_k(torch.tensor([1.0, 3.0, 2.0]), 9)[1].tolist() == [1, 2, 0]
    assert top_k(torch.tensor([]), 4)[0].shape == (0,)


def test_suppression_is_per_group_above_a_threshold_and_limited():
    same = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 9, 10]])
    rows = torch.tensor([[[0.9, 0.8, 0.7, 0.05], [0.1, 0.9, -1.0, 0.6]]])
    kept = non_max_suppression(same[None], rows, -1, 0.5, 0.2).tolist()
    assert kept == [[0, 0, 0], [0, 0, 2], [0, 1, 1]]
    assert non_max_suppression(same[None], rows, 1, 0.5, 0.2).tolist() == [[0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize('own_boxes', [False, True])
@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize('limit', [8, -1])
def test_boxes_of_classes_are_suppressed_as_in_mmdet(own_boxes, agnostic, limit):
    per_class = torch.stack([boxes(40, seed) for seed in range(3)], 1) if own_boxes else boxes(40)
    probabilities = scores(40, 4)
    nms = dict(type='nms', iou_threshold=0.4, class_agnostic=agnostic)
    dets, labels = multiclass_nms(per_class.flatten(1), probabilities, 0.3, ConfigDict(nms), limit)
    cfg = ConfigDict(score_thr=0.3, nms=nms, max_per_img=limit)
    found = suppress_by_class(per_class, probabilities[:, :3], cfg)
    assert torch.equal(found[0], dets[:, :4]) and torch.equal(found[1], dets[:, 4])
    assert torch.equal(found[2], labels)


def test_small_boxes_are_left_out():
    cfg = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=10, min_bbox_size=3)
    some = torch.tensor([[0.0, 0, 2, 50], [0, 0, 4, 4], [30, 30, 33, 40]])
    kept = Suppression(cfg, -0.5)(some, torch.tensor([0.9, 0.1, 0.8]), torch.zeros(3).long(), 1)[0]
    assert torch.equal(kept, some[1:2])
