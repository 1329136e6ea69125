"""``tools/train.py``, killed with SIGKILL and resumed, repeats an uninterrupted run."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from slab_det.datasets import make_shapes_dataset

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# 12 images in batches of 2: 6 iterations an epoch, 18 in all.
CONFIG = """
_base_ = ['{mini}']
custom_imports = dict(imports=['slab_det'], allow_failed_imports=False)
model = dict(backbone=dict(
    arch=dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4)),
    window_sizes=(24, 12, 3, 3), drop_path_rate=0.2),
    neck=dict(in_channels=[16, 32, 64, 128]))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=(96, 96), ratio_range=(0.7, 1.2), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=2, num_workers={workers}, persistent_workers={workers} > 0,
    sampler=dict(_delete_=True, type='{sampler}', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'), dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(_delete_=True, {train_cfg})
param_scheduler = [dict(type='LinearLR', start_factor=0.1, begin=0, end=4, by_epoch=False)]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(_delete_=True, type='CheckpointHook', {checkpoint}))
randomness = dict(seed=3)
"""
EPOCHS = "type='EpochBasedTrainLoop', max_epochs=3, val_interval=1"
ITERS = "type='IterBasedTrainLoop', max_iters=18, val_interval=6"
BY_ITER = 'interval=4, by_epoch=False'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    make_shapes_dataset(str(root / 'data'), num_train=12, num_val=4, size=(64, 112))
    return root / 'data'


def start(config, work_dir, data, *arguments):
    environment = dict(os.environ, SHAPES_ROOT=str(data), OMP_NUM_THREADS='1',
                       PYTHONPATH=str(ROOT))
    work_dir.mkdir(exist_ok=True)
    with open(work_dir / 'output.txt', 'a') as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir',
             str(work_dir), *arguments], env=environment, stdout=output, stderr=output,
            start_new_session=True)


def finish(process, work_dir):
    assert process.wait() == 0, (work_dir / 'output.txt').read_text()[-3000:]


def records(work_dir):
    """The training records of each start of the run, in order, by iteration."""
    runs = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        rows = [json.loads(row) for row in path.read_text().splitlines()
                if row.endswith('}')]
        runs.append({row['iter']: row for row in rows if 'loss' in row})
    return runs


def kill_at(process, work_dir, iteration):
    """SIGKILL the run and its workers as soon as the iteration is in the log."""
    while process.poll() is None and not any(iteration in run for run in records(work_dir)):
        time.sleep(0.02)
    assert process.poll() is None, (work_dir / 'output.txt').read_text()[-3000:]
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize('workers, train_cfg, sampler, checkpoint, killed, done', [
    (0, EPOCHS, 'DefaultSampler', 'interval=1', 9, 6),
    (2, EPOCHS, 'DefaultSampler', BY_ITER, 11, 8),
    (2, ITERS, 'InfiniteSampler', BY_ITER, 11, 8),
], ids=['epochs-0', 'within-epoch-2', 'iterations-2'])
def test_killed_and_resumed_run_equals_the_uninterrupted_one(
        tmp_path, data, workers, train_cfg, sampler, checkpoint, killed, done):
    config = tmp_path / 'config.py'
    config.write_text(CONFIG.format(
        mini=ROOT / 'configs' / 'mini' / 'mask-rcnn_slab-swin_mini_shapes.py', workers=workers,
        train_cfg=train_cfg, sampler=sampler, checkpoint=checkpoint))
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    finish(start(config, whole, data), whole)
    kill_at(start(config, cut, data), cut, killed)
    time.sleep(1)  # the folder of a run is named by the second in which it starts
    finish(start(config, cut, data, '--resume'), cut)

    expected, = records(whole)
    first, second = records(cut)
    # The last checkpoint may be later than `done` if the run went on while the signal came.
    begun = min(second)
    assert done < begun and max(second) == max(expected) == 18 and killed in first
    for iteration, row in second.items():
        for name, value in row.items():
            if 'loss' in name or name in ('lr', 'prepbn_ratio', 'acc', 'epoch'):
                assert value == pytest.approx(expected[iteration][name], rel=0, abs=1e-6), (
                    iteration, name)
    last = 'epoch_3.pth' if checkpoint == 'interval=1' else 'iter_18.pth'
    weights = [torch.load(run / last, weights_only=True)['state_dict'] for run in (whole, cut)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-6)
