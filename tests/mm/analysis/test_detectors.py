"""Costs of whole detectors."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from slab_det.mm.analysis import Cost, backbone_cost, detector_cost, proposals_of

CONFIGS = Path(__file__).parents[3] / 'configs'
SHAPE = (64, 96)


def build(name, **options):
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict(options)
    return MODELS.build(cfg.model)


@pytest.fixture(scope='module')
def mask_rcnn():
    return build('slab_swin/mask-rcnn_slab-swin-t_fpn_1x_coco.py')


def test_the_second_stage_is_counted_by_its_formula(mask_rcnn):
    assert proposals_of(mask_rcnn) == 1000
    box = 256 * 49 * 1024 + 1024 * 1024 + 1024 * 81 + 1024 * 320
    mask = 4 * 256 * 256 * 9 * 14**2 + 256 * 256 * 4 * 14**2 + 256 * 80 * 28**2
    costs = detector_cost(mask_rcnn, SHAPE)
    assert costs['roi_head'].multiply_adds == 1000 * box + 100 * mask
    assert list(costs) == ['backbone', 'neck', 'rpn_head', 'roi_head']


def test_the_first_stage_is_counted_by_its_formula(mask_rcnn):
    costs = detector_cost(mask_rcnn, SHAPE)
    levels = [(64 // s) * (96 // s) for s in (4, 8, 16, 32)]
    laterals = sum(n * c * 256 for n, c in zip(levels, (96, 192, 384, 768)))
    assert costs['neck'].multiply_adds == laterals + sum(levels) * 256 * 256 * 9
    tokens = sum(levels) + 1 * 2  # the fifth level subsamples the fourth
    assert costs['rpn_head'].multiply_adds == tokens * (256 * 256 * 9 + 256 * 3 + 256 * 12)
    assert costs['backbone'] == backbone_cost(mask_rcnn.backbone, SHAPE)


def test_costs_do_not_depend_on_the_weights(mask_rcnn):
    expected = detector_cost(mask_rcnn, SHAPE)
    saved = {name: value.clone() for name, value in mask_rcnn.rpn_head.state_dict().items()}
    torch.nn.init.normal_(mask_rcnn.rpn_head.rpn_cls.weight, std=10)
    torch.nn.init.normal_(mask_rcnn.rpn_head.rpn_reg.weight, std=1)
    assert detector_cost(mask_rcnn, SHAPE) == expected
    mask_rcnn.rpn_head.load_state_dict(saved)
    assert 'predict' not in vars(mask_rcnn.rpn_head)


def test_parameters_are_those_of_the_model(mask_rcnn):
    total = sum(detector_cost(mask_rcnn, SHAPE).values(), Cost())
    assert total.parameters == sum(p.numel() for p in mask_rcnn.parameters())


def test_a_detector_of_one_stage_has_no_proposals():
    model = build('slab_swin/retinanet_slab-swin-t_fpn_1x_coco.py')
    assert proposals_of(model) is None
    costs = detector_cost(model, SHAPE)
    locations = sum(-(-64 // s) * -(-96 // s) for s in (8, 16, 32, 64, 128))
    towers = 2 * 4 * 256 * 256 * 9 + 256 * 9 * 80 * 9 + 256 * 9 * 4 * 9
    assert costs['bbox_head'].multiply_adds == locations * towers
