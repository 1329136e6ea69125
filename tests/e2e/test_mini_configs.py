"""Every mini config trains, evaluates, resumes and re-parameterizes on the built-in data."""

import copy
from pathlib import Path

import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner

from slab_det.deploy import reparameterize
from slab_det.layers import prepbn_modules
from slab_det.mm.datasets import make_shapes_dataset

pytestmark = pytest.mark.slow

CONFIGS = sorted((Path(__file__).resolve().parents[2] / 'configs' / 'mini').glob('*.py'))
ITERATIONS = 5


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes') / 'data'
    make_shapes_dataset(str(root), num_train=4, num_val=2, size=(64, 96))
    return root


def shorten(cfg, work_dir, iterations):
    """Train ``iterations`` iterations of two images; the ratio falls to 0 after the fourth."""
    cfg.work_dir = str(work_dir)
    # A network that has hardly learnt must still return detections to evaluate.
    cfg.model.test_cfg.get('rcnn', cfg.model.test_cfg).score_thr = 0.0
    for phase in ('train', 'val', 'test'):
        loader = cfg[f'{phase}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=1000)
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, begin=0, end=4, by_epoch=False)]
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=iterations, by_epoch=False)
    cfg.custom_hooks = [dict(type='PRepBNHook', schedule='linear', end=4, by_epoch=False)]
    return cfg


@pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
def test_mini_config_trains_evaluates_resumes_and_reparameterizes(
    path, data, tmp_path, monkeypatch
):
    monkeypatch.setenv('SHAPES_ROOT', str(data))
    register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(path)
    first = Runner.from_cfg(shorten(copy.deepcopy(cfg), tmp_path, 2))
    first.train()
    ratio = float(prepbn_modules(first.model)[0].ratio)
    assert 0 < ratio < 1

    resumed = shorten(cfg, tmp_path, ITERATIONS)
    resumed.update(resume=True, experiment_name=f'{path.stem}_resumed')
    runner = Runner.from_cfg(resumed)
    runner.train()
    assert runner.iter == ITERATIONS
    assert {float(norm.ratio) for norm in prepbn_modules(runner.model)} == {0.0}
    metrics = runner.val_loop.run()
    assert 0 <= metrics['coco/bbox_mAP'] <= 1

    model = runner.model.eval()
    images = torch.randn(1, 3, 70, 101)
    with torch.no_grad():
        expected = model.extract_feat(images)
        outputs = reparameterize(model).extract_feat(images)
    for output, maps in zip(outputs, expected):
        assert (output - maps).abs().max() < 1e-4 * maps.abs().max()
