"""From a LayerNorm detector to one without norm: the configs, and what they promise."""

import copy
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from torch import nn

from slab_det.deploy import reparameterize
from slab_det.layers import PRepBN, RepBN, prepbn_modules
from slab_det.mm.datasets import make_shapes_dataset
from slab_det.statistics.calibration import norm_sites

RECIPES = Path(__file__).parents[2] / 'configs/recipes'
LN = RECIPES / 'retinanet_swin-ln_mini_shapes.py'
FROM_LN = RECIPES / 'retinanet_swin-prepbn-from-ln_mini_shapes.py'


def detector(path, **backbone):
    init_default_scope('mmdet')
    cfg = Config.fromfile(path)
    if backbone:
        cfg.model.backbone = ConfigDict(backbone)
    cfg.model.test_cfg.score_thr = 0.0
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A detector with LayerNorm whose norms are not as they begin, and its checkpoint."""
    model = detector(LN)
    model.init_weights()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            for p in module.parameters():
                p.data.add_(torch.randn(p.shape, generator=generator), alpha=0.3)
    path = tmp_path_factory.mktemp('trained') / 'ln.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return model.eval(), path


@torch.no_grad()
def detections(model):
    image = torch.randint(0, 256, (3, 140, 175), generator=torch.Generator().manual_seed(2))
    sample = DetDataSample(
        metainfo=dict(img_shape=(140, 175), ori_shape=(140, 175), scale_factor=(1.0, 1.0), img_id=0)
    )
    found = (
        model.eval().test_step(dict(inputs=[image.byte()], data_samples=[sample]))[0].pred_instances
    )
    assert len(found) > 20 and found.scores.max() > found.scores.min()
    return found


def test_with_the_swin_of_mmdet_the_first_detections_are_those_of_the_layer_norm_detector(trained):
    expected = detections(trained[0])
    model = detector(FROM_LN)
    load_checkpoint(model, str(trained[1]), map_location='cpu')
    assert len(prepbn_modules(model)) == 1 + 2 * 5 + 3 + 4
    assert {float(norm.ratio) for norm in prepbn_modules(model)} == {1.0}
    found = detections(model)
    for name in ('bboxes', 'scores', 'labels'):
        assert torch.equal(found[name], expected[name]), name


def test_with_this_packages_swin_the_first_detections_are_those_of_the_layer_norm_detector(trained):
    expected = detections(trained[0])
    model = detector(
        FROM_LN,
        type='SLABSwinTransformer',
        attn_types='SSSS',
        window_sizes=(5,) * 4,
        norm_cfg=dict(type='PRepBN'),
        arch=dict(embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
        init_cfg=dict(type='Pretrained', checkpoint=str(trained[1]), prefix='backbone.'),
    )
    model.init_weights()
    load_checkpoint(model, str(trained[1]), map_location='cpu')
    assert {float(norm.ratio) for norm in prepbn_modules(model)} == {1.0}
    found = detections(model)
    # Rounding may swap two of nearly the same score.
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-6)
    distance = torch.cdist(found.bboxes, expected.bboxes, p=1).min(1).values
    assert (distance < 0.05).float().mean() > 0.98


@pytest.mark.parametrize('backbone', ['swin', 'slab-swin'])
def test_the_recipe_for_coco_starts_from_a_detector_of_its_kind(backbone):
    cfg = Config.fromfile(RECIPES / f'mask-rcnn_{backbone}-t-prepbn-from-ln_fpn_1x_coco.py')
    assert 'mask_rcnn_swin-t-p4-w7_fpn_1x_coco' in cfg.load_from
    assert cfg.model.backbone.norm_cfg.type == 'PRepBN'
    hooks = [hook.type for hook in cfg.custom_hooks]
    # What calibration leaves out, training must leave out: docs/padding.md.
    assert hooks == ['PRepBNHook', 'RandomStateHook', 'ValidTokensHook', 'BNCalibrationHook']
    init = cfg.model.backbone.init_cfg
    if backbone == 'slab-swin':
        assert cfg.model.backbone.type == 'SLABSwinTransformer'
        assert init == dict(type='Pretrained', checkpoint=cfg.load_from, prefix='backbone.')
    else:
        assert init is None and cfg.model.backbone.type == 'SwinTransformer'


@pytest.mark.slow
def test_the_small_recipe_ends_without_norm(trained, tmp_path, monkeypatch):
    make_shapes_dataset(str(tmp_path / 'data'), num_train=6, num_val=2, size=(64, 96))
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'data'))
    register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(FROM_LN)
    cfg.work_dir, cfg.load_from = str(tmp_path), str(trained[1])
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=5, val_interval=5)
    cfg.param_scheduler = []
    cfg.custom_hooks[-1].update(num_images=4, num_workers=0)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=5, by_epoch=False)
    Runner.from_cfg(copy.deepcopy(cfg)).train()

    model = detector(FROM_LN)
    load_checkpoint(model, str(tmp_path / 'iter_5.pth'), map_location='cpu')
    assert {float(norm.ratio) for norm in prepbn_modules(model)} == {0.0}
    assert all(torch.isfinite(site.bn.running_var).all() for site in norm_sites(model))
    expected, deployed = detections(model), reparameterize(model)
    assert not any(isinstance(m, (PRepBN, RepBN, nn.LayerNorm)) for m in deployed.modules())
    torch.testing.assert_close(detections(deployed).scores, expected.scores, rtol=1e-3, atol=1e-5)
