"""The training step on made-up images."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from slab_det.cli import InputError
from slab_det.layers import PRepBN
from slab_det.mm.plug import make_plan, train_one_step
from slab_det.mm.plug.trial import class_numbers, fixed_size, idle_parameters, made_up_batch

from .tiny import BACKBONE, DETECTOR


@pytest.fixture
def cfg():
    plan = make_plan(Config.fromstring(DETECTOR, '.py'), BACKBONE, 'some.py')
    return Config(plan.after)


def test_a_detector_trains_and_the_caller_keeps_its_random_numbers(cfg):
    state = torch.get_rng_state()
    trial = train_one_step(cfg, 'some.py', (64, 96))
    assert torch.equal(torch.get_rng_state(), state)
    assert trial.losses['loss'] == pytest.approx(
        trial.losses['loss_cls'] + trial.losses['loss_bbox']
    )
    assert trial.size == (64, 96) and trial.idle == []


def test_a_neck_that_does_not_fit_is_refused(cfg):
    cfg.model.neck.in_channels = [64, 128, 100]
    with pytest.raises(
        InputError,
        match='the RetinaNet of some.py cannot be trained with this backbone: RuntimeError',
    ):
        train_one_step(cfg, 'some.py', (64, 64))


def test_a_loss_that_is_not_finite_is_refused(cfg):
    cfg.model.bbox_head.loss_bbox = dict(type='L1Loss', loss_weight=float('inf'))
    with pytest.raises(
        InputError, match='training step of the RetinaNet of some.py failed: .*(nan|inf)'
    ):
        train_one_step(cfg, 'some.py', (64, 64))


def test_a_backbone_that_does_not_learn_is_refused(cfg):
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys={'backbone': dict(lr_mult=0.0)})
    with pytest.raises(InputError, match='does not train its backbone'):
        train_one_step(cfg, 'some.py', (64, 64))


def test_maps_that_nobody_reads_are_found(cfg):
    cfg.model.backbone.out_indices = (0, 1, 2, 3)
    cfg.model.neck.update(in_channels=[32, 64, 128, 256], start_level=1)
    assert train_one_step(cfg, 'some.py', (64, 64)).idle == ['norm0.weight', 'norm0.bias']


def test_branches_of_prepbn_may_be_without_a_gradient():
    net = nn.Sequential(PRepBN(4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight.grad = torch.zeros(4, 4)
    net[2].requires_grad_(False)
    assert idle_parameters(net) == ['1.bias']


def test_classes_and_sizes_come_from_the_config():
    assert class_numbers(
        dict(bbox_head=dict(num_classes=7), semantic_head=dict(num_classes=183))
    ) == (7, 183)
    assert class_numbers(dict(head=dict(num_things_classes=80, num_stuff_classes=53))) == (80, 133)
    assert fixed_size(dict(bbox_head=dict(anchor_generator=dict(input_size=300)))) == (300, 300)
    assert fixed_size(dict(bbox_head=dict(anchor_generator=dict(strides=[8])))) is None


def test_masks_and_classes_of_pixels_are_made_where_they_are_loaded(cfg):
    sample = made_up_batch(cfg, (64, 64))['data_samples'][0]
    assert 'masks' not in sample.gt_instances and 'gt_sem_seg' not in sample
    cfg.train_dataloader = dict(
        dataset=dict(dataset=dict(pipeline=[dict(type='LoadPanopticAnnotations')]))
    )
    sample = made_up_batch(cfg, (64, 80))['data_samples'][0]
    assert sample.gt_instances.masks.masks.shape == (3, 64, 80)
    boxes = sample.gt_instances.masks.get_bboxes('hbox').tensor
    assert torch.allclose(boxes, sample.gt_instances.bboxes, atol=1.0)
    assert int(sample.gt_sem_seg.sem_seg.max()) < 4 and sample.gt_instances.labels.max() < 4
