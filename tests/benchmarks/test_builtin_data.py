"""Plugged configs on the built-in data."""

import json
import sys

import pytest
from mmengine.config import Config

from tests.scripts import load_script

on_builtin_data = load_script('benchmarks/builtin_data.py').on_builtin_data

YOLOX_LIKE = """
model = dict(type='YOLOX', data_preprocessor=dict(
    type='DetDataPreprocessor', batch_augments=[dict(type='BatchFixedSizePad', size=(9, 9))]),
    head=dict(bbox_coder=dict(clip_border=False)),
    test_cfg=dict(score_thr=0.5, rcnn=dict(score_thr=0.3, nms=dict(iou_threshold=0.5))))
train_dataloader = dict(batch_size=64, batch_sampler=dict(type='AspectRatio'), dataset=dict(
    type='MultiImageMixDataset', pipeline=[dict(type='Mosaic')], dataset=dict(
        type='CocoDataset', data_root='data/coco/', ann_file='annotations/a.json',
        pipeline=[dict(type='LoadImageFromFile'),
                  dict(type='LoadAnnotations', with_mask=True, poly2mask=False),
                  dict(type='Resize', scale=(640, 640))])))
val_dataloader = dict(dataset=dict(type='CocoDataset', ann_file='annotations/b.json',
                                   pipeline=[dict(type='LoadImageFromFile')]))
test_dataloader = val_dataloader
val_evaluator = [dict(type='CocoPanopticMetric', ann_file='data/coco/annotations/p.json')]
test_evaluator = val_evaluator
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic', clip_grad=dict(max_norm=1))
custom_hooks = [dict(type='YOLOXModeSwitchHook'), dict(type='EMAHook')]
default_hooks = dict(
    checkpoint=dict(type='C'), visualization=dict(type='X'), logger=dict(type='L'))
load_from = 'some.pth'
"""


def test_data_and_length_change_and_what_trains_the_model_stays():
    cfg = on_builtin_data(Config.fromstring(YOLOX_LIKE, '.py'), 'data/shapes', (160, 192))
    train, val = cfg.train_dataloader, cfg.val_dataloader
    assert (train.dataset.type, train.dataset.data_root) == ('CocoDataset', 'data/shapes/')
    assert [one.type for one in train.dataset.pipeline] == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'Resize',
        'PackDetInputs',
    ]
    assert train.dataset.pipeline[1].poly2mask and train.dataset.pipeline[2].scale == (192, 160)
    assert (train.batch_size, 'batch_sampler' in train) == (2, False)
    assert val.dataset.pipeline[-1].meta_keys[0] == 'img_id'
    assert cfg.val_evaluator[0].to_dict() == dict(
        type='CocoPanopticMetric', ann_file='data/shapes/annotations/p.json', nproc=1
    )
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper', clip_grad=dict(max_norm=1))
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']
    assert cfg.default_hooks.to_dict() == dict(checkpoint=None, logger=dict(type='L'))
    assert 'batch_augments' not in cfg.model.data_preprocessor
    assert cfg.model.test_cfg.to_dict() == dict(
        score_thr=0.0, rcnn=dict(score_thr=0.0, nms=dict(iou_threshold=0.5))
    )
    assert cfg.model.head.bbox_coder.clip_border is True
    assert 'test_dataloader' not in cfg and cfg.load_from is None


def test_a_detector_for_one_size_keeps_it():
    text = YOLOX_LIKE.replace(
        "type='YOLOX'", "type='SSD', bbox_head=dict(anchor_generator=dict(input_size=300))"
    )
    cfg = on_builtin_data(Config.fromstring(text, '.py'), 'data/shapes')
    assert cfg.train_dataloader.dataset.pipeline[2].scale == (300, 300)


@pytest.mark.slow
def test_a_row_of_the_table_of_detectors(tmp_path, monkeypatch):
    tool = load_script('benchmarks/detectors.py')
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'detectors.py',
            '--work-dir',
            str(tmp_path),
            '--one',
            'YOLOX',
            '--backbone',
            'slab-pvt-v2-b0',
        ],
    )
    args = tool.parse_args()
    tool.make_data(tmp_path)
    tool.main(args)
    result = json.loads((tmp_path / 'slab-pvt-v2-b0/yolox_tiny_8xb8-300e_coco.json').read_text())
    assert 'failed' not in result, result['failed']
    assert 0 <= result['evaluated']['coco/bbox_mAP'] <= 1
    assert 0 < result['reparameterized'] < tool.TOLERANCE
    row = tool.row('YOLOX', result)
    assert row[0] == 'YOLOX' and row[-1] == ''
    assert row[2].startswith('loss ') and 'bbox_mAP' in row[3]
    assert '| YOLOX | `yolox/yolox_tiny_8xb8-300e_coco.py` | loss ' in tool.table(args)
