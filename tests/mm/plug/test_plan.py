"""A config before and after."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import PretrainedInit

from slab_det.checkpoints import CheckpointError
from slab_det.layers import set_ratio
from slab_det.mm.plug import (
    backbone_config,
    changed_settings,
    config_text,
    load_detector,
    make_plan,
)
from slab_det.mm.plug.backbones import build

from .tiny import BACKBONE, DETECTOR

ROOT = Path(__file__).parents[3]


def plan(init_cfg=None):
    return make_plan(Config.fromstring(DETECTOR, '.py'), BACKBONE, 'some.py', init_cfg)


def test_nothing_but_the_settings_of_the_backbone_changes():
    made = plan()
    assert {path for path, _, _ in changed_settings(made.before, made.after)} == {
        'model.backbone',
        'model.neck.in_channels',
        'model.neck.start_level',
        'model.data_preprocessor.mean',
        'model.data_preprocessor.std',
        'model.data_preprocessor.bgr_to_rgb',
        'optim_wrapper.optimizer',
        'optim_wrapper.constructor',
        'param_scheduler',
        'custom_hooks',
        'custom_imports',
        'default_hooks',
    }
    assert made.after['model']['backbone'] == {**BACKBONE, 'out_indices': (1, 2, 3)}
    assert made.after['model']['data_preprocessor'] == dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    )
    habits = next(note.text for note in made.notes if note.path == 'model.backbone')
    assert habits.startswith('frozen_stages=1, norm_eval=True of the ResNet are not taken over')


@pytest.mark.parametrize('ratio, settings', [(0.0, {'norm_eval': True}), (1.0, {})])
def test_statistics_of_a_finished_checkpoint_stay(tmp_path, ratio, settings):
    net = build(BACKBONE)
    set_ratio(net, ratio)
    torch.save(dict(model=net.net.state_dict()), tmp_path / 'net.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'net.pth'))
    backbone = plan(init_cfg).after['model']['backbone']
    assert backbone == {**BACKBONE, 'out_indices': (1, 2, 3), 'init_cfg': init_cfg, **settings}


def test_a_checkpoint_of_another_size_is_refused(tmp_path):
    other = build(
        {**BACKBONE, 'arch': dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))}
    )
    torch.save(dict(model=other.net.state_dict()), tmp_path / 'net.pth')
    with pytest.raises(CheckpointError, match='has shape'):
        plan(dict(type='Pretrained', checkpoint=str(tmp_path / 'net.pth')))


def test_the_guide_shows_what_is_written_for_retinanet():
    config = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    made = make_plan(load_detector(config), backbone_config('slab-swin-t'), config)
    text = config_text(config, made.before, made.after, '')
    assert text in (ROOT / 'docs/plug-in.md').read_text()


@pytest.mark.parametrize(
    'path, left', [('model.data_preprocessor', True), ('data_preprocessor', False)]
)
def test_images_are_normalised_wherever_that_is_set(path, left):
    cfg = Config.fromstring(DETECTOR, '.py')
    beside = cfg.model.pop('data_preprocessor')
    if not left:
        cfg.data_preprocessor = beside
    made = make_plan(cfg, BACKBONE, 'some.py')
    assert (path, left) in {(note.path, note.left) for note in made.notes}
    assert left or made.after['data_preprocessor']['bgr_to_rgb'] is True


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
@pytest.mark.parametrize('several', [False, True])
def test_a_checkpoint_of_the_whole_old_detector_is_dropped(kind, several):
    cfg = Config.fromstring(DETECTOR, '.py')
    init_cfg = dict(type=kind, checkpoint='detector.pth')
    cfg.model.init_cfg = [dict(type='Xavier', layer='Conv2d'), init_cfg] if several else init_cfg
    made = make_plan(cfg, BACKBONE, 'some.py')
    assert made.after['model']['init_cfg'] is None
    assert 'model.init_cfg' in {note.path for note in made.notes}
