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

from slab_det.mm.datasets import make_shapes_dataset
from tests.resumption import assert_same_checkpoint

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
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(
    _delete_=True, type='CheckpointHook', backend_args=dict(backend='whole'), {checkpoint}))
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


def start(config, work_dir, data, *arguments, modules=ROOT):
    environment = dict(
        os.environ,
        SHAPES_ROOT=str(data),
        OMP_NUM_THREADS='1',
        PYTHONPATH=os.pathsep.join(map(str, (ROOT, modules))),
    )
    work_dir.mkdir(exist_ok=True)
    with open(work_dir / 'output.txt', 'a') as output:
        return subprocess.Popen(
            [
                sys.executable,
                str(ROOT / 'tools' / 'train.py'),
                str(config),
                '--work-dir',
                str(work_dir),
                *arguments,
            ],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def finish(process, work_dir):
    assert process.wait() == 0, (work_dir / 'output.txt').read_text()[-3000:]


def records(work_dir):
    """The training records of each start of the run, in order, by iteration."""
    runs = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        rows = [json.loads(row) for row in path.read_text().splitlines() if row.endswith('}')]
        runs.append({row['iter']: row for row in rows if 'loss' in row})
    return runs


def kill_at(process, work_dir, iteration):
    """SIGKILL the run and its workers as soon as the iteration is in the log."""
    while process.poll() is None and not any(iteration in run for run in records(work_dir)):
        time.sleep(0.02)
    assert process.poll() is None, (work_dir / 'output.txt').read_text()[-3000:]
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def write_config(
    folder,
    name='config.py',
    workers=0,
    train_cfg=EPOCHS,
    sampler='DefaultSampler',
    checkpoint='interval=1',
):
    config = folder / name
    config.write_text(
        CONFIG.format(
            mini=ROOT / 'configs' / 'mini' / 'mask-rcnn_slab-swin_mini_shapes.py',
            workers=workers,
            train_cfg=train_cfg,
            sampler=sampler,
            checkpoint=checkpoint,
        )
    )
    return config


def assert_repeats(cut, whole, begun, last):
    """The second start of ``cut`` went on after iteration ``begun``, and from there on as
    ``whole``, the uninterrupted run; ``last`` is the name of the checkpoint at the end."""
    (expected,) = records(whole)
    _, second = records(cut)
    assert (min(second), max(second), max(expected)) == (begun + 1, 18, 18)
    for iteration, row in second.items():
        for name, value in row.items():
            if 'loss' in name or name in ('lr', 'prepbn_ratio', 'acc', 'epoch'):
                assert value == pytest.approx(expected[iteration][name], rel=0, abs=1e-6), (
                    iteration,
                    name,
                )
    assert_same_checkpoint(cut / last, whole / last, tolerance=1e-4)


@pytest.mark.parametrize(
    'workers, train_cfg, sampler, checkpoint, killed, done',
    [
        (0, EPOCHS, 'DefaultSampler', 'interval=1', 9, 6),
        (2, EPOCHS, 'DefaultSampler', BY_ITER, 11, 8),
        (2, ITERS, 'InfiniteSampler', BY_ITER, 11, 8),
    ],
    ids=['epochs-0', 'within-epoch-2', 'iterations-2'],
)
def test_killed_and_resumed_run_equals_the_uninterrupted_one(
    tmp_path, data, workers, train_cfg, sampler, checkpoint, killed, done
):
    config = write_config(
        tmp_path, workers=workers, train_cfg=train_cfg, sampler=sampler, checkpoint=checkpoint
    )
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    finish(start(config, whole, data), whole)
    kill_at(start(config, cut, data), cut, killed)
    # The last checkpoint may be later than `done` if the run went on while the signal came.
    begun = int(
        torch.load((cut / 'last_checkpoint').read_text(), weights_only=True)['meta']['iter']
    )
    assert done <= begun < 18
    time.sleep(1)  # the folder of a run is named by the second in which it starts
    finish(start(config, cut, data, '--resume'), cut)

    assert killed in records(cut)[0]
    assert_repeats(
        cut, whole, begun, 'epoch_3.pth' if checkpoint == 'interval=1' else 'iter_18.pth'
    )


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, data):
    """Work folder of a run by epochs that was not killed."""
    folder = tmp_path_factory.mktemp('uninterrupted')
    finish(start(write_config(folder), folder / 'run', data), folder / 'run')
    return folder / 'run'


@pytest.mark.parametrize(
    'death, begun',
    [
        # The second checkpoint is that of epoch 2, so the run goes on from the first.
        ('die_in_checkpoint(2)', 6),
        ('die_in_validation(2)', 12),
    ],
)
def test_a_run_killed_while_it_saves_or_validates_repeats_the_uninterrupted_one(
    tmp_path, data, uninterrupted, death, begun
):
    config, cut = write_config(tmp_path), tmp_path / 'cut'
    # A module that the config imports: the process kills itself at exactly that point.
    (tmp_path / 'dying.py').write_text(f'from tests.resumption import *\n{death}\n')
    dying = tmp_path / 'config_dying.py'
    dying.write_text(
        "_base_ = './config.py'\ncustom_imports = dict(imports=['slab_det', 'dying'])\n"
    )
    assert start(dying, cut, data, modules=tmp_path).wait() == -signal.SIGKILL
    (first,) = cut.glob('*/vis_data/scalars.json')
    rows = [json.loads(row) for row in first.read_text().splitlines()]
    assert [row['iter'] for row in rows if 'loss' in row] == list(range(1, 13))
    assert [row['step'] for row in rows if 'loss' not in row] == [1]
    part = cut / '.epoch_2.part.pth'
    assert (
        part.exists() == ('checkpoint' in death) and (cut / 'epoch_2.pth').exists() != part.exists()
    )

    time.sleep(1)  # the folder of a run is named by the second in which it starts
    finish(start(config, cut, data, '--resume'), cut)
    assert_repeats(cut, uninterrupted, begun, 'epoch_3.pth')
    assert not part.exists()
