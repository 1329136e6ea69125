from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
FOLDERS = ['slab_deit', 'slab_cswin']
MINI = [
    'mask-rcnn_slab-deit_mini_shapes',
    'mask-rcnn_deit-prepbn_mini_shapes',
    'mask-rcnn_slab-cswin_mini_shapes',
]


@cache
def load(path):
    return Config.fromfile(path).model


def metafile(folder):
    return yaml.safe_load((CONFIGS / folder / 'metafile.yml').read_text())


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile_lists_every_config_with_its_backbone(folder):
    meta = metafile(folder)
    files = {path.stem for path in (CONFIGS / folder).glob('*.py')}
    assert {model['Name'] for model in meta['Models']} == files
    backbones = {b['Name']: b['Config'] for b in meta['Collections'][0]['Backbones']}
    for model in meta['Models']:
        cfg = load(CONFIGS.parent / model['Config']).backbone
        assert {key: cfg[key] for key in ('type', 'arch', 'attn_types')} == backbones[
            model['Metadata']['Backbone']
        ]


@pytest.mark.parametrize('folder', FOLDERS)
def test_every_neck_fits_its_backbone_and_its_head(folder):
    register_all_modules(init_default_scope=True)
    for path in sorted((CONFIGS / folder).glob('*.py')):
        cfg = load(path)
        backbone, neck = MODELS.build(cfg.backbone).eval(), MODELS.build(cfg.neck).eval()
        with torch.no_grad():
            levels = neck(backbone(torch.randn(1, 3, 64, 96)))
        head = cfg.rpn_head if 'rpn_head' in cfg else cfg.bbox_head
        strides = head.anchor_generator.strides
        assert len(levels) == len(strides), path.name
        for level, stride in zip(levels, strides):
            assert level.shape[1:] == (256, -(-64 // stride), -(-96 // stride)), path.name


@pytest.mark.parametrize('name', MINI)
def test_mini_config_learns_and_predicts(name):
    register_all_modules(init_default_scope=True)
    detector = MODELS.build(load(CONFIGS / 'mini' / f'{name}.py'))
    packed = demo_mm_inputs(2, [[3, 64, 80], [3, 48, 96]], num_classes=5, with_mask=True)
    data = detector.data_preprocessor(packed, True)
    losses = detector.loss(data['inputs'], data['data_samples'])
    loss, _ = detector.parse_losses(losses)
    loss.backward()
    gradients = [
        p.grad for n, p in detector.named_parameters() if n.startswith(('backbone', 'neck'))
    ]
    # At ratio 1 the RepBN branch takes no part; everything else learns.
    learning = sum(g is not None and bool(g.abs().sum() > 0) for g in gradients)
    assert loss.isfinite() and learning > len(gradients) / 2
    with torch.no_grad():
        data = detector.data_preprocessor(packed, False)
        results = detector.eval().predict(data['inputs'], data['data_samples'])
    assert len(results) == 2 and results[0].pred_instances.bboxes.shape[1] == 4
